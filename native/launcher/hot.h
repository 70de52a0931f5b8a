/* SPDX-License-Identifier: Apache-2.0
 *
 * The working set that `restorer optimize` has packed: its index, for the region. Without one, or with one that cannot
 * be used, the restore goes the longer way.
 */
#ifndef RESTORER_HOT_H
#define RESTORER_HOT_H
#include "image.h"
#include "store.h"
#include "wire.h"

struct hot {
    struct wr_hot *index; /* NULL without a working set; blocks and chunks follow */
    uint64_t bytes;
};

/* Reads and checks the index of process `index`, and has the kernel read the blocks ahead. `where` of each block becomes an offset in
 * data.mdb. */
void hot_load(struct hot *hot, const struct store *store, const struct image *image, uint32_t index);

#endif
