/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is in madvise(2): for a pager that has an event to read, which says of shared memory that it is discarded, but not how.
 */
#ifndef RESTORER_CALLS_H
#define RESTORER_CALLS_H
#include "wire.h"

/* Fills `calls` with what the threads of all our descendants are in, and wakes who waits for it. Every thread that waits for
 * its event to be read, and has since before the call, is among them. */
void calls_answer(struct wr_calls *calls);

#endif
