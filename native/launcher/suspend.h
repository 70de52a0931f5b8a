/* SPDX-License-Identifier: Apache-2.0
 *
 * Tasks with seccomp filters, which would meet the last steps of their own restore. Before they install the first one the
 * launcher seizes them with PTRACE_O_SUSPEND_SECCOMP; once the tree is ready it leads each to the end of its rt_sigreturn
 * and holds it there: not one instruction of the program is run without its filters.
 */
#ifndef RESTORER_SUSPEND_H
#define RESTORER_SUSPEND_H
#include "image.h"
#include "tree.h"

/* Seizes all tasks of the process, which has made them all; ends the launcher with a message when it may not. */
void suspend_seize(struct member *member, const struct image *image);

/* A tracee of ours has stopped before it is to be led: passes on what stopped it. */
void suspend_pass_on(pid_t tid, int status);

/* Leads all tasks of the member, if it was seized, out of the region; it is released by that, but for being held. */
void suspend_lead_out(struct member *member);

/* Lets all tasks of the member go. */
void suspend_detach(struct member *member);

#endif
