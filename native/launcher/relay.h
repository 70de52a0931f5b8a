/* SPDX-License-Identifier: Apache-2.0
 *
 * A tree that leads a session has a terminal of its own, whose master the launcher holds: bytes go to and fro between that
 * and the launcher's stdin and stdout. Where these are a terminal, it is raw meanwhile.
 */
#ifndef RESTORER_RELAY_H
#define RESTORER_RELAY_H
#include <poll.h>
#include <stdbool.h>

#include "wire.h"

enum { RELAY_FDS = 3 };

/* Takes a duplicate of `master`; `terminal` is what was at the checkpoint. */
void relay_open(int master, const struct wr_terminal *terminal);

/* Whether there is one. */
bool relay_active(void);

/* The tree is about to run: takes the terminal, for which the launcher stops until it is in the foreground. */
void relay_begin(void);

/* The tree runs: gives its terminal the size of the launcher's, now and whenever that changes. */
void relay_settle(void);

/* RELAY_FDS to wait for, then what came; soon again when this says so. */
void relay_list(struct pollfd *fds);
bool relay_wants_time(void);
void relay_step(const struct pollfd *fds);

/* Signals of the launcher that mean its terminal, not the program; false for all others. */
bool relay_signal(int signal);

/* What the tree has written to the last, and the terminal as it was. */
void relay_end(void);

#endif
