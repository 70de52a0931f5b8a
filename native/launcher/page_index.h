/* SPDX-License-Identifier: Apache-2.0
 *
 * The page index of the process: decoded into the region, `where` turned from numbers of packs to file offsets.
 */
#ifndef RESTORER_PAGE_INDEX_H
#define RESTORER_PAGE_INDEX_H
#include "image.h"
#include "store.h"
#include "wire.h"

/* Fills `records` (as many as the process has), still with the numbers of their packs. Before the clone:
 * the pager may look at all of a record but `where` without waiting for index_ready. Ends the process with
 * a message when the store is damaged. */
void page_index_decode(const struct store *store, const struct wr_process *process,
                       struct wr_record *records);

/* Turns the numbers into offsets, calling `meanwhile` now and then: with a cold page cache it takes a while. Also ends the
 * process when the store is damaged. */
void page_index_resolve(const struct store *store, const struct wr_process *process,
                        struct wr_record *records, void (*meanwhile)(void));

/* Where the frame of a chunk lies in the store: number of its pack, offset in there. */
struct place {
    uint64_t pack;
    uint32_t offset;
};

/* The place of the chunk whose frame lies at `where` of data.mdb. Reads the index again. */
struct place page_index_place(const struct store *store, const struct wr_process *process,
                              const struct wr_record *records, uint64_t where);

#endif
