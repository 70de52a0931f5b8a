/* SPDX-License-Identifier: Apache-2.0 */
#include "store_meta.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lmdb_pages.h"

enum { MDB_MAGIC_WORD = 0xBEEFC0DE, MDB_FORMAT = 1, PSIZE_MIN = 512, PSIZE_MAX = 65536 };

static bool root_valid(const struct lmdb_meta *page)
{
    for (int i = 0; i < LMDB_TREES; i++)
        if (page->trees[i].root != UINT64_MAX && page->trees[i].root > page->last_page)
            return false;
    return true;
}

static const char *page_read(int fd, uint64_t offset, struct lmdb_meta *page)
{
    ssize_t n = pread(fd, page, sizeof(*page), (off_t)offset);
    if (n < 0)
        return "data.mdb cannot be read";
    if ((size_t)n < sizeof(*page))
        return "data.mdb is truncated";
    if (page->magic != MDB_MAGIC_WORD || (page->page.flags & LMDB_META) == 0)
        return "data.mdb does not begin with LMDB's meta pages";
    if (page->version != MDB_FORMAT)
        return "data.mdb has a data format other than LMDB 0.9's";
    uint32_t psize = page->trees[LMDB_FREE].pad;
    if (psize < PSIZE_MIN || psize > PSIZE_MAX || (psize & (psize - 1)) != 0)
        return "the page size in data.mdb is none of LMDB's";
    if (page->last_page >= (UINT64_C(1) << 47) / psize || !root_valid(page))
        return "a meta page of data.mdb has impossible page numbers";
    return NULL;
}

const char *store_meta_read(int fd, struct store_meta *meta)
{
    struct lmdb_meta first, second;
    struct stat st;
    const char *wrong = page_read(fd, 0, &first);
    if (wrong == NULL)
        wrong = page_read(fd, first.trees[LMDB_FREE].pad, &second);
    if (wrong != NULL)
        return wrong;
    if (second.trees[LMDB_FREE].pad != first.trees[LMDB_FREE].pad)
        return "the meta pages of data.mdb contradict each other";
    const struct lmdb_meta *newest = second.txnid > first.txnid ? &second : &first;
    if (fstat(fd, &st) != 0)
        return "data.mdb cannot be read";
    meta->file_bytes = (uint64_t)st.st_size;
    meta->used_bytes = (newest->last_page + 1) * newest->trees[LMDB_FREE].pad;
    return meta->file_bytes < meta->used_bytes ? "data.mdb is truncated" : NULL;
}
