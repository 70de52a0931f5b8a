/* SPDX-License-Identifier: Apache-2.0
 *
 * What will be looked at, read ahead: where the page cache is cold, the disk is waited for once instead of once a page.
 * All of it is advice. What is read here of a damaged store is held within its bounds, and believed by nobody.
 */
#ifndef RESTORER_PREFETCH_H
#define RESTORER_PREFETCH_H
#include <stdint.h>

#include "store.h"
#include "wire.h"

void prefetch_bytes(const struct store *store, uint64_t offset, uint64_t bytes);

/* The first page of each named database. */
void prefetch_roots(const struct store *store);

/* The pages of `chunks` that lead to the chunks of these records, whose `where` are still numbers. */
void prefetch_chunk_pages(const struct store *store, const struct wr_record *records, uint32_t count);

#endif
