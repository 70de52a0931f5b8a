/* SPDX-License-Identifier: Apache-2.0 */
#include "page_index.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "say.h"

enum { MEANWHILE_RECORDS = 64 };

static bool record_valid(const struct wr_record *record, const struct wr_record *before)
{
    return record->addr % WR_CHUNK_BYTES == 0 && record->addr < IMAGE_TASK_SIZE &&
           (before == NULL || record->addr > before->addr) && record->mask != 0 && record->frame_bytes != 0 &&
           record->frame_bytes <= IMAGE_FRAME_BYTES_MAX &&
           (record->flags & ~(WR_RECORD_EAGER | WR_RECORD_WRITE | WR_RECORD_SHARED)) == 0;
}

void page_index_decode(const struct store *store, const struct wr_process *process, struct wr_record *records)
{
    uint64_t bytes = (uint64_t)process->records_count * sizeof(*records);
    if (process->records_count == 0)
        return;
    struct bytes frame = store_page_index(store, process->map_id);
    if (frame_check(frame) != process->map_check)
        store_damaged(store, "the page index is not the one that the image was sealed with");
    if (frame_content_bytes(store, "the page index", frame, bytes) != bytes)
        store_damaged(store, "the page index is shorter than the image says");
    frame_decode(store, "the page index", frame, records, bytes);
    for (uint32_t i = 0; i < process->records_count; i++)
        if (!record_valid(&records[i], i == 0 ? NULL : &records[i - 1]))
            store_damaged(store, "entry %u of the page index is impossible", i);
}

/* Neighbours in memory mostly lie in one pack, `value` then stays as it is, or in packs that were stored one after
 * the other: a step of the cursor is cheaper than a search. */
static int seek(MDB_cursor *cursor, uint64_t pack, uint64_t *at, bool *placed, MDB_val *value)
{
    uint64_t wanted = __builtin_bswap64(pack), found = 0;
    MDB_val key = {.mv_size = sizeof(wanted), .mv_data = &wanted};
    if (*placed && pack == *at)
        return 0;
    if (*placed && pack == *at + 1 && mdb_cursor_get(cursor, &key, value, MDB_NEXT) == 0 &&
        key.mv_size == sizeof(found)) {
        memcpy(&found, key.mv_data, sizeof(found));
        if (found == wanted) {
            *at = pack;
            return 0;
        }
    }
    key = (MDB_val){.mv_size = sizeof(wanted), .mv_data = &wanted};
    int rc = mdb_cursor_get(cursor, &key, value, MDB_SET);
    *placed = rc == 0;
    *at = pack;
    return rc;
}

static uint64_t offset_of(const struct store *store, const struct wr_record *record, const MDB_val *value)
{
    const uint8_t *data = value->mv_data;
    unsigned long long pack = record->where;
    if (record->offset > value->mv_size || record->frame_bytes > value->mv_size - record->offset)
        store_damaged(store, "chunk %llu+%u reaches beyond the %zu bytes of its pack", pack, record->offset,
                      value->mv_size);
    if (data < store->map || value->mv_size > store->used_bytes ||
        (uint64_t)(data - store->map) > store->used_bytes - value->mv_size)
        store_damaged(store, "pack %llu lies outside data.mdb", pack);
    return (uint64_t)(data - store->map) + record->offset;
}

void page_index_resolve(const struct store *store, const struct wr_process *process,
                        struct wr_record *records, void (*meanwhile)(void))
{
    MDB_cursor *cursor;
    MDB_val value;
    uint64_t at = 0;
    bool placed = false;
    int rc = mdb_cursor_open(store->txn, store->chunks, &cursor);
    if (rc != 0)
        die("cannot walk the store: %s", mdb_strerror(rc));
    for (uint32_t i = 0; i < process->records_count; i++) {
        rc = seek(cursor, records[i].where, &at, &placed, &value);
        if (rc != 0)
            store_damaged(store, "pack %llu is missing", (unsigned long long)records[i].where);
        records[i].where = offset_of(store, &records[i], &value);
        if (i % MEANWHILE_RECORDS == 0)
            meanwhile();
    }
    mdb_cursor_close(cursor);
}

struct place page_index_place(const struct store *store, const struct wr_process *process,
                              const struct wr_record *records, uint64_t where)
{
    struct place place = {0, 0};
    uint64_t bytes = (uint64_t)process->records_count * sizeof(*records);
    struct wr_record *original = malloc(bytes);
    if (original == NULL)
        return place;
    page_index_decode(store, process, original);
    for (uint32_t i = 0; i < process->records_count && place.pack == 0; i++)
        if (records[i].where == where)
            place = (struct place){original[i].where, original[i].offset};
    free(original);
    return place;
}
