/* SPDX-License-Identifier: Apache-2.0
 *
 * The store, read-only: one LMDB environment with one pinned reader, so that no value moves while it is open.
 */
#ifndef RESTORER_STORE_H
#define RESTORER_STORE_H
#include <lmdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    const uint8_t *data;
    size_t size;
};

struct store {
    const char *path;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi refs, images, maps, chunks, hot;
    const uint8_t *map;  /* where data.mdb is mapped */
    uint64_t used_bytes; /* of it, by the pinned snapshot */
};

/* All of these end the process with a message when the store is missing, damaged or does not hold the key. */
void store_open(struct store *store, const char *path);
uint64_t store_find(const struct store *store, const char *name, uint32_t *check);
struct bytes store_image(const struct store *store, uint64_t id);
struct bytes store_page_index(const struct store *store, uint64_t map_id);
/* False when the image has no working set. */
bool store_hot(const struct store *store, uint64_t id, struct bytes *value);
int store_data_fd(const struct store *store);

void store_damaged(const struct store *store, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* Gives the reader's slot back. */
void store_close(struct store *store);

#endif
