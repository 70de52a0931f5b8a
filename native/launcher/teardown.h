/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking the pager away once nothing is missing, so that the target's address space is its own again.
 */
#ifndef RESTORER_TEARDOWN_H
#define RESTORER_TEARDOWN_H
#include <stdbool.h>

#include "image.h"
#include "tree.h"

/* True once no task of the member, which has `threads`, can still be executing in the region. Call it again until it is.
 */
bool teardown_ready(struct member *member, uint32_t threads);

/* Has the pager unmap the region, then kills and reaps it. */
void teardown_run(struct member *member, const struct image *image);

#endif
