/* SPDX-License-Identifier: Apache-2.0 */
#include "prefetch.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lmdb_pages.h"

/* The kernel cuts a call off where a device's readahead ends (force_page_cache_ra in mm/readahead.c): 128 KiB by default. */
enum { ADVICE_BYTES = 128 << 10 };

/* More of them than any tree of LMDB's has. */
enum { DEPTH_MAX = 16 };

enum { NODE_DATABASE = 2 };

/* MDB_node. */
struct node {
    uint16_t low, high, flags, key_bytes;
};

/* The pages of one level of a tree, and the lowest key that each may have. */
struct level {
    size_t count;
    uint64_t *first;
    uint64_t *pages;
};

void prefetch_bytes(const struct store *store, uint64_t offset, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes; done += ADVICE_BYTES)
        posix_fadvise(store_data_fd(store), (off_t)(offset + done),
                      (off_t)(bytes - done < ADVICE_BYTES ? bytes - done : ADVICE_BYTES),
                      POSIX_FADV_WILLNEED);
}

/* NULL for what is no page of the tree. */
static const struct lmdb_page *page_at(const struct store *store, uint64_t number, uint16_t kind)
{
    if (number < 2 || number >= store->used_bytes / WR_PAGE_BYTES)
        return NULL;
    const struct lmdb_page *page = (const void *)(store->map + number * WR_PAGE_BYTES);
    if (page->number != number || (page->flags & LMDB_KINDS) != kind || page->lower < sizeof(*page) ||
        page->lower > WR_PAGE_BYTES)
        return NULL;
    return page;
}

static size_t nodes_count(const struct lmdb_page *page)
{
    return (page->lower - sizeof(*page)) / sizeof(uint16_t);
}

/* NULL where the node, with `value_bytes` after its key, reaches beyond the page. */
static const struct node *node_at(const struct lmdb_page *page, size_t i, size_t value_bytes)
{
    uint16_t offset = ((const uint16_t *)(page + 1))[i];
    const struct node *node = (const void *)((const uint8_t *)page + offset);
    if (offset % 2 != 0 || offset + sizeof(*node) > WR_PAGE_BYTES ||
        offset + sizeof(*node) + node->key_bytes + value_bytes > WR_PAGE_BYTES)
        return NULL;
    return node;
}

/* The page that the named databases are listed in; NULL where that is not a single one. */
static const struct lmdb_page *list_of_databases(const struct store *store)
{
    uint64_t txnid = mdb_txn_id(store->txn);
    struct lmdb_meta meta;
    memcpy(&meta, store->map + (txnid & 1) * WR_PAGE_BYTES, sizeof(meta));
    if (meta.txnid != txnid || meta.trees[LMDB_FREE].pad != WR_PAGE_BYTES)
        return NULL;
    return page_at(store, meta.trees[LMDB_MAIN].root, LMDB_LEAF);
}

static bool database_at(const struct lmdb_page *list, size_t i, const char *name, struct lmdb_tree *record)
{
    const struct node *node = node_at(list, i, sizeof(*record));
    if (node == NULL || node->flags != NODE_DATABASE)
        return false;
    const uint8_t *key = (const uint8_t *)(node + 1);
    if (name != NULL && (strlen(name) != node->key_bytes || memcmp(key, name, node->key_bytes) != 0))
        return false;
    memcpy(record, key + node->key_bytes, sizeof(*record));
    return true;
}

static void prefetch_page(const struct store *store, uint64_t number)
{
    if (number < store->used_bytes / WR_PAGE_BYTES)
        prefetch_bytes(store, number * WR_PAGE_BYTES, WR_PAGE_BYTES);
}

void prefetch_roots(const struct store *store)
{
    const struct lmdb_page *list = list_of_databases(store);
    struct lmdb_tree record;
    for (size_t i = 0; list != NULL && i < nodes_count(list); i++)
        if (database_at(list, i, NULL, &record))
            prefetch_page(store, record.root);
}

static void level_free(struct level *level)
{
    free(level->first);
    free(level->pages);
    *level = (struct level){.count = 0};
}

static bool level_make(struct level *level, size_t count)
{
    *level = (struct level){
        .first = calloc(count, sizeof(uint64_t)),
        .pages = calloc(count, sizeof(uint64_t)),
    };
    return level->first != NULL && level->pages != NULL;
}

/* The first key of a branch is left empty: it is its parent's. */
static void add_children(const struct lmdb_page *page, uint64_t first, struct level *below)
{
    for (size_t i = 0; i < nodes_count(page); i++) {
        const struct node *node = node_at(page, i, 0);
        uint64_t key;
        if (node == NULL || (i > 0 && node->key_bytes != sizeof(key)))
            return;
        memcpy(&key, node + 1, i > 0 ? sizeof(key) : 0);
        below->first[below->count] = i > 0 ? __builtin_bswap64(key) : first;
        below->pages[below->count++] = node->low | (uint64_t)node->high << 16 | (uint64_t)node->flags << 32;
    }
}

/* False where that is no level of a tree: more pages than the store has would mean that some are there twice. */
static bool descend(const struct store *store, const struct level *level, struct level *below)
{
    size_t count = 0;
    for (size_t i = 0; i < level->count; i++) {
        const struct lmdb_page *page = page_at(store, level->pages[i], LMDB_BRANCH);
        if (page == NULL)
            return false;
        count += nodes_count(page);
    }
    if (count > store->used_bytes / WR_PAGE_BYTES || !level_make(below, count))
        return false;
    for (size_t i = 0; i < level->count; i++)
        add_children(page_at(store, level->pages[i], LMDB_BRANCH), level->first[i], below);
    return below->count != 0;
}

static size_t find(const struct level *level, uint64_t key)
{
    size_t low = 0, high = level->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (level->first[middle] <= key)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static bool covers(const struct level *level, size_t i, uint64_t key)
{
    return level->first[i] <= key && (i + 1 == level->count || key < level->first[i + 1]);
}

/* Leaves only those pages that lead to a chunk of the records. */
static bool keep_needed(struct level *level, const struct wr_record *records, uint32_t count)
{
    bool *needed = calloc(level->count, sizeof(*needed));
    size_t at = 0, kept = 0;
    if (needed == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (!covers(level, at, records[i].where))
            at = find(level, records[i].where);
        needed[at] = true;
    }
    for (size_t i = 0; i < level->count; i++)
        if (needed[i]) {
            level->first[kept] = level->first[i];
            level->pages[kept++] = level->pages[i];
        }
    level->count = kept;
    free(needed);
    return true;
}

/* One level after the other: all of its pages are asked for before the first is looked at. */
static void prefetch_tree(const struct store *store, const struct lmdb_tree *tree,
                          const struct wr_record *records, uint32_t count)
{
    struct level level, below = {.count = 0};
    bool good = level_make(&level, 1) && tree->depth <= DEPTH_MAX;
    if (good)
        level.pages[level.count++] = tree->root;
    for (uint16_t depth = 1; good && depth < tree->depth; depth++) {
        good = descend(store, &level, &below) && keep_needed(&below, records, count);
        for (size_t i = 0; good && i < below.count; i++)
            prefetch_page(store, below.pages[i]);
        level_free(&level);
        level = below;
        below = (struct level){.count = 0};
    }
    level_free(&level);
}

void prefetch_chunk_pages(const struct store *store, const struct wr_record *records, uint32_t count)
{
    const struct lmdb_page *list = list_of_databases(store);
    struct lmdb_tree record;
    for (size_t i = 0; list != NULL && i < nodes_count(list); i++)
        if (database_at(list, i, "chunks", &record))
            prefetch_tree(store, &record, records, count);
}
