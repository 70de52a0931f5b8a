/* SPDX-License-Identifier: Apache-2.0 */
#include "store_meta.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MDB_MAGIC_WORD = 0xBEEFC0DE, MDB_FORMAT = 1, PAGE_IS_META = 0x08, PSIZE_MIN = 512, PSIZE_MAX = 65536 };

/* MDB_page's header and MDB_meta of LMDB 0.9 (mdb.c) on a 64-bit machine. */
struct meta_db {
    uint32_t pad; /* of the first database: the page size */
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};

struct meta_page {
    uint64_t pgno;
    uint16_t pad, flags;
    uint32_t pages;
    uint32_t magic, version;
    uint64_t address, map_bytes;
    struct meta_db dbs[2];
    uint64_t last_pgno, txnid;
};

_Static_assert(sizeof(struct meta_page) == 152, "layout of LMDB 0.9's meta page");

static bool root_valid(const struct meta_page *page)
{
    for (int i = 0; i < 2; i++)
        if (page->dbs[i].root != UINT64_MAX && page->dbs[i].root > page->last_pgno)
            return false;
    return true;
}

static const char *page_read(int fd, uint64_t offset, struct meta_page *page)
{
    ssize_t n = pread(fd, page, sizeof(*page), (off_t)offset);
    if (n < 0)
        return "data.mdb cannot be read";
    if ((size_t)n < sizeof(*page))
        return "data.mdb is truncated";
    if (page->magic != MDB_MAGIC_WORD || (page->flags & PAGE_IS_META) == 0)
        return "data.mdb does not begin with LMDB's meta pages";
    if (page->version != MDB_FORMAT)
        return "data.mdb has a data format other than LMDB 0.9's";
    uint32_t psize = page->dbs[0].pad;
    if (psize < PSIZE_MIN || psize > PSIZE_MAX || (psize & (psize - 1)) != 0)
        return "the page size in data.mdb is none of LMDB's";
    if (page->last_pgno >= (UINT64_C(1) << 47) / psize || !root_valid(page))
        return "a meta page of data.mdb has impossible page numbers";
    return NULL;
}

const char *store_meta_read(int fd, struct store_meta *meta)
{
    struct meta_page first, second;
    struct stat st;
    const char *wrong = page_read(fd, 0, &first);
    if (wrong == NULL)
        wrong = page_read(fd, first.dbs[0].pad, &second);
    if (wrong != NULL)
        return wrong;
    if (second.dbs[0].pad != first.dbs[0].pad)
        return "the meta pages of data.mdb contradict each other";
    const struct meta_page *newest = second.txnid > first.txnid ? &second : &first;
    if (fstat(fd, &st) != 0)
        return "data.mdb cannot be read";
    meta->file_bytes = (uint64_t)st.st_size;
    meta->used_bytes = (newest->last_pgno + 1) * newest->dbs[0].pad;
    return meta->file_bytes < meta->used_bytes ? "data.mdb is truncated" : NULL;
}
