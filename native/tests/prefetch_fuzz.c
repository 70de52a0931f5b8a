/* SPDX-License-Identifier: Apache-2.0
 *
 * prefetch.c on a store that LMDB made: the leaves of the chunks that are asked for are read ahead, and no others; with
 * pages of it damaged it reads nothing outside of them, which the sanitizers would tell.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prefetch.h"

enum { CHUNKS = 60000, LEAF = 2, HEADER_FLAGS = 10, HEADER_LOWER = 12, HEADER_BYTES = 16, ROUNDS = 1000 };

static uint8_t *advised; /* one a page of the store */
static uint64_t pages_count;
static uint64_t random_state = 1;

int store_data_fd(const struct store *store)
{
    (void)store;
    return -1;
}

/* In place of the C library's: prefetch.c is compiled against it here. */
int advise(int fd, off_t offset, off_t bytes, int advice)
{
    uint64_t first = (uint64_t)offset / WR_PAGE_BYTES;
    if (fd != -1 || advice != POSIX_FADV_WILLNEED || bytes <= 0 || first >= pages_count) {
        fprintf(stderr, "prefetch_fuzz: advice for %lld bytes at %lld\n", (long long)bytes,
                (long long)offset);
        exit(1);
    }
    advised[first] = 1;
    return 0;
}

static void must(int failed, const char *what)
{
    if (!failed)
        return;
    fprintf(stderr, "prefetch_fuzz: %s\n", what);
    exit(1);
}

static uint32_t chance(uint32_t below)
{
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(random_state >> 33) % below;
}

static MDB_val number(uint64_t *key, uint64_t value)
{
    *key = __builtin_bswap64(value);
    return (MDB_val){sizeof(*key), key};
}

/* Values that fit into leaves, so that there are many of these. */
static void fill(MDB_env *env)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    char bytes[64] = "";
    must(mdb_txn_begin(env, NULL, 0, &txn) || mdb_dbi_open(txn, "chunks", MDB_CREATE, &dbi), "a transaction");
    for (uint64_t i = 0; i < CHUNKS; i++) {
        uint64_t key;
        MDB_val k = number(&key, i + 1), v = {sizeof(bytes), bytes};
        must(mdb_put(txn, dbi, &k, &v, MDB_APPEND), "a value");
    }
    must(mdb_dbi_open(txn, "refs", MDB_CREATE, &dbi) || mdb_txn_commit(txn), "the commit");
}

static MDB_env *open_env(const char *folder)
{
    MDB_env *env;
    must(mdb_env_create(&env) || mdb_env_set_maxdbs(env, 4) || mdb_env_set_mapsize(env, 64 << 20) ||
             mdb_env_open(env, folder, MDB_NOSYNC, 0600),
         "an environment");
    return env;
}

static uint8_t *copy_of_file(const char *folder)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/data.mdb", folder);
    int fd = open(path, O_RDONLY);
    must(fd < 0 || fstat(fd, &st), "data.mdb");
    pages_count = (uint64_t)st.st_size / WR_PAGE_BYTES;
    uint8_t *copy = malloc((size_t)st.st_size);
    advised = calloc(pages_count, 1);
    must(!copy || !advised || pread(fd, copy, (size_t)st.st_size, 0) != st.st_size, "a copy");
    close(fd);
    return copy;
}

/* The keys of a leaf of `chunks`, which are all in a row; 0 for any other page. */
static uint64_t keys_of_leaf(const uint8_t *page, uint64_t *first)
{
    uint16_t flags, lower, node;
    uint64_t key;
    memcpy(&flags, page + HEADER_FLAGS, sizeof(flags));
    memcpy(&lower, page + HEADER_LOWER, sizeof(lower));
    memcpy(&node, page + HEADER_BYTES, sizeof(node));
    if (flags != LEAF || lower <= HEADER_BYTES || node > WR_PAGE_BYTES - 16)
        return 0;
    memcpy(&key, page + node + 8, sizeof(key));
    *first = __builtin_bswap64(key);
    return *first >= 1 && *first <= CHUNKS ? (lower - HEADER_BYTES) / 2u : 0;
}

static void check_leaves(const struct store *store, uint64_t low, uint64_t high)
{
    uint64_t first, leaves = 0, wanted = 0;
    for (uint64_t i = 2; i < pages_count; i++) {
        uint64_t keys = keys_of_leaf(store->map + i * WR_PAGE_BYTES, &first);
        if (keys == 0)
            continue;
        leaves++;
        int needed = first <= high && first + keys > low;
        wanted += (uint64_t)needed;
        must(needed != advised[i], needed ? "a leaf is not read ahead" : "a leaf is read that nobody needs");
    }
    must(leaves < 1000 || wanted == 0, "the tree is too small to show anything");
}

static void check_whole(const struct store *store, struct wr_record *records)
{
    static const uint64_t spans[][2] = {{1, CHUNKS}, {1, 1}, {CHUNKS, CHUNKS}, {31000, 33000}, {777, 778}};
    for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
        uint64_t low = spans[i][0], count = spans[i][1] - low + 1;
        for (uint64_t k = 0; k < count; k++)
            records[k].where = low + count - 1 - k;
        memset(advised, 0, pages_count);
        prefetch_chunk_pages(store, records, (uint32_t)count);
        check_leaves(store, low, spans[i][1]);
    }
}

/* Pages of trees only: the others are not looked at. */
static void damage(uint8_t *map)
{
    uint64_t first;
    for (int flips = 1 + (int)chance(3); flips > 0;) {
        uint64_t page = chance((uint32_t)pages_count);
        if (page >= 2 && keys_of_leaf(map + page * WR_PAGE_BYTES, &first) != 0)
            continue;
        uint32_t at = chance(2) ? chance(64) : chance(WR_PAGE_BYTES);
        map[page * WR_PAGE_BYTES + at] = (uint8_t)chance(256);
        flips--;
    }
}

int main(void)
{
    char folder[] = "/tmp/prefetch_fuzz-XXXXXX", command[64];
    must(mkdtemp(folder) == NULL, "a folder");
    MDB_env *env = open_env(folder);
    fill(env);
    struct store store = {.env = env};
    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &store.txn), "a snapshot");
    uint8_t *whole = copy_of_file(folder), *map = malloc(pages_count * WR_PAGE_BYTES);
    struct wr_record *records = calloc(CHUNKS, sizeof(*records));
    must(!map || !records, "memory");
    store.map = whole;
    store.used_bytes = pages_count * WR_PAGE_BYTES;
    check_whole(&store, records);
    store.map = map;
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(map, whole, pages_count * WR_PAGE_BYTES);
        damage(map);
        prefetch_roots(&store);
        prefetch_chunk_pages(&store, records, 1 + chance(64));
    }
    mdb_txn_abort(store.txn);
    mdb_env_close(env);
    snprintf(command, sizeof(command), "%s/data.mdb", folder);
    unlink(command);
    snprintf(command, sizeof(command), "%s/lock.mdb", folder);
    unlink(command);
    rmdir(folder);
    free(records);
    free(map);
    free(whole);
    free(advised);
    printf("prefetch_fuzz: 5 spans of keys, and %d damaged stores\n", ROUNDS);
    return 0;
}
