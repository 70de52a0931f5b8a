/* SPDX-License-Identifier: Apache-2.0
 *
 * Job control in the foreground: the target has the terminal; stops and continues take the launcher along. A tree that
 * leads a session has one of its own (relay.h).
 */
#ifndef RESTORER_TERMINAL_H
#define RESTORER_TERMINAL_H
#include <sys/signalfd.h>

#include "launch.h"

/* Once `shared` has run: the pair that a session has got from it is the launcher's to hold. */
void terminal_adopt(const struct launch *launch);

/* Just before the tree runs: gives the terminal to its group in the foreground, if it is ours to give, with the modes that
 * it had at the checkpoint. */
void terminal_give(const struct launch *launch);

/* Tells the tree how large its terminal is now, once it is back in what it did; every TERMINAL_WAIT_MS while there is
 * something to look for. */
enum { TERMINAL_WAIT_MS = 20 };
bool terminal_wants_time(void);
void terminal_settle(const struct launch *launch);

/* Takes it back, as it was. */
void terminal_take(void);

/* The target has stopped by this signal: when it had the terminal, stops the launcher too, until it is continued. */
void terminal_follow_stop(const struct tree *tree, int signal);

/* Passes a signal on to the target, unless it means the terminal, or the terminal's driver or the target itself sent it. */
void terminal_forward(const struct tree *tree, const struct signalfd_siginfo *info);

#endif
