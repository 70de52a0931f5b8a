/* SPDX-License-Identifier: Apache-2.0
 *
 * The guard: a child of the launcher that does nothing but hold duplicates of the userfaultfds while memory is missing,
 * and end the program when the launcher has died. Launcher and pager may be killed at one stroke; without a third
 * holder the program's missing pages would then read as zeroes. It holds the launcher's ends of the channels, too: the
 * userfaultfd of a child that was forked a moment ago may still be in a message.
 *
 * With --pid ns it is outside of the namespace. The init dies with the launcher, and all in it with the init, but only
 * after the dying launcher has closed its fds (do_exit in kernel/exit.c: exit_files, then exit_notify).
 */
#ifndef RESTORER_GUARD_H
#define RESTORER_GUARD_H
#include "tree.h"

/* Once the launcher holds a userfaultfd, and again whenever the guard has ended: it gets all that is known. */
void guard_start(struct tree *tree);

/* A process of the tree, for the guard to end. */
void guard_target(const struct tree *tree, const struct member *member);

/* A userfaultfd of a member, for the guard to hold as well; its own has number 0, those of forked children others. */
void guard_hold(const struct tree *tree, const struct member *member, uint64_t number, int fd);

/* One that nobody reads any more: as long as the guard held it, threads would wait for their events to be read. */
void guard_drop(const struct tree *tree, const struct member *member, uint64_t number);

/* Nothing is missing any more: the guard ends. */
void guard_dismiss(struct tree *tree);

#endif
