/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of LMDB 0.9 (mdb.c) on a 64-bit machine, as docs/format.md has them.
 */
#ifndef RESTORER_LMDB_PAGES_H
#define RESTORER_LMDB_PAGES_H
#include <stdint.h>

enum { LMDB_BRANCH = 0x01, LMDB_LEAF = 0x02, LMDB_META = 0x08, LMDB_KINDS = 0x0f };

/* MDB_page's header. */
struct lmdb_page {
    uint64_t number;
    uint16_t pad, flags, lower, upper;
};

/* MDB_db. */
struct lmdb_tree {
    uint32_t pad; /* of the first tree of a meta page: the page size */
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};

enum { LMDB_FREE, LMDB_MAIN, LMDB_TREES };

/* A meta page: MDB_meta behind the header. */
struct lmdb_meta {
    struct lmdb_page page;
    uint32_t magic, version;
    uint64_t address, map_bytes;
    struct lmdb_tree trees[LMDB_TREES];
    uint64_t last_page, txnid;
};

_Static_assert(sizeof(struct lmdb_meta) == 152, "layout of LMDB 0.9's meta page");

#endif
