/* SPDX-License-Identifier: Apache-2.0
 *
 * The moment at which the restored tree begins to run.
 */
#ifndef RESTORER_RELEASE_H
#define RESTORER_RELEASE_H
#include "launch.h"

/* The tree waits: sets it going, and tells whoever wants to know. In the background with --fill before the process
 * in front is told later: once the pager has left too, unless the tree is stopped, which keeps the pager there. */
void release_tree(struct launch *launch);

/* Lets a process go that waits to run its last ops. */
void release_go(const struct member *member);

#endif
