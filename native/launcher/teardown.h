/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking the pager away once nothing is missing, so that the target's address space is its own again.
 */
#ifndef RESTORER_TEARDOWN_H
#define RESTORER_TEARDOWN_H
#include <stdbool.h>

#include "image.h"
#include "region.h"
#include "tree.h"

/* True once no task of the target can still be executing in the region. Call it again until it is. */
bool teardown_ready(const struct tree *tree, const struct region *region, uint32_t threads);

/* Has the pager unmap the region, then kills and reaps it. Closes the userfaultfd. */
void teardown_run(struct tree *tree, const struct image *image, const struct region *region);

#endif
