/* SPDX-License-Identifier: Apache-2.0
 *
 * What loader and pager say on the channel, and what the launcher does about it.
 */
#ifndef RESTORER_MESSAGES_H
#define RESTORER_MESSAGES_H
#include "launch.h"

/* Handles all that has arrived, without waiting. */
void messages_drain(struct launch *launch);

#endif
