/* SPDX-License-Identifier: Apache-2.0
 *
 * Job control in the foreground: the target has the terminal; stops and continues take the launcher along.
 */
#ifndef RESTORER_TERMINAL_H
#define RESTORER_TERMINAL_H
#include <sys/signalfd.h>

#include "tree.h"

/* Gives the terminal to the target's process group, if it is ours to give and that is another group. */
void terminal_give(const struct tree *tree);

/* Takes it back. */
void terminal_take(void);

/* The target has stopped by this signal: when it was job control, stops the launcher too, until it is
 * continued. */
void terminal_follow_stop(const struct tree *tree, int signal);

/* Passes a signal on to the target, unless the terminal's driver or the target itself sent it. */
void terminal_forward(const struct tree *tree, const struct signalfd_siginfo *info);

#endif
