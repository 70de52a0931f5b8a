/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals of the launcher: all blocked and read from an fd, but for those a fault raises.
 */
#ifndef RESTORER_SIGNALS_H
#define RESTORER_SIGNALS_H

/* Every disposition to its default (what was ignored by whoever started us stays ignored over exec and
 * clone3, CLONE_CLEAR_SIGHAND included), then blocks all but the fault signals. */
void signals_init(void);

/* Around clone3: the child starts with every signal blocked. */
void signals_block_all(void);
void signals_unblock_faults(void);

/* Stops the launcher until somebody continues it; the SIGCONT that did is not for the target. */
void signals_stop_self(void);

/* A signalfd for what signals_init() has blocked. */
int signals_fd(void);

#endif
