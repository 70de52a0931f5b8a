/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a process has MADV_WIPEONFORK: for a pager that has read of a fork, since the kernel sends no event for the advice.
 */
#ifndef RESTORER_WIPES_H
#define RESTORER_WIPES_H
#include <sys/types.h>

#include "wire.h"

/* Fills `wipes` for the mm of process `pid` from address `from` on, whichever of its threads still has it, and wakes who waits
 * for it. */
void wipes_answer(struct wr_wipes *wipes, pid_t pid, uint64_t from);

#endif
