/* SPDX-License-Identifier: Apache-2.0 */
#include "hot.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "prefetch.h"
#include "say.h"

static struct wr_hot_block *blocks(const struct hot *hot)
{
    return (struct wr_hot_block *)(hot->index + 1);
}

static bool header_valid(const struct hot *hot, const struct image *image, const struct wr_process *process)
{
    const struct wr_hot *index = hot->index;
    if (hot->bytes < sizeof(*index) || memcmp(index->magic, "RSTRHOT", sizeof(index->magic)) != 0)
        return false;
    if (index->image_id != image->id || index->map_check != process->map_check)
        return false;
    return index->eager_blocks <= index->blocks_count && index->chunks_count <= process->records_count &&
           hot->bytes == sizeof(*index) + (uint64_t)index->blocks_count * sizeof(struct wr_hot_block) +
                             (uint64_t)index->chunks_count * sizeof(uint32_t);
}

/* The blocks lie one behind the other and hold all chunks, in `bytes` bytes. */
static bool blocks_valid(const struct hot *hot, uint64_t bytes)
{
    uint64_t where = 0, chunk = 0;
    for (uint32_t i = 0; i < hot->index->blocks_count; i++) {
        const struct wr_hot_block *block = &blocks(hot)[i];
        if (block->where != where || block->first != chunk || block->count == 0 ||
            block->count > WR_HOT_BLOCK_CHUNKS || block->frame_bytes == 0)
            return false;
        where += block->frame_bytes;
        chunk += block->count;
    }
    return where == bytes && chunk == hot->index->chunks_count;
}

static bool chunks_valid(const struct hot *hot, uint32_t records_count)
{
    const uint32_t *chunks = (const uint32_t *)(blocks(hot) + hot->index->blocks_count);
    for (uint32_t i = 0; i < hot->index->chunks_count; i++)
        if (chunks[i] >= records_count)
            return false;
    return true;
}

static bool decode_index(struct hot *hot, struct bytes frame, uint64_t bytes_max)
{
    unsigned long long bytes = ZSTD_getFrameContentSize(frame.data, frame.size);
    if (bytes == ZSTD_CONTENTSIZE_ERROR || bytes == ZSTD_CONTENTSIZE_UNKNOWN || bytes > bytes_max)
        return false;
    hot->bytes = bytes;
    hot->index = malloc(bytes + sizeof(*hot->index));
    return hot->index != NULL && ZSTD_decompress(hot->index, bytes, frame.data, frame.size) == bytes;
}

static bool load(struct hot *hot, const struct store *store, const struct image *image,
                 const struct wr_process *process, struct bytes value)
{
    uint64_t records = process->records_count;
    uint64_t bytes_max = sizeof(struct wr_hot) + records * (sizeof(struct wr_hot_block) + sizeof(uint32_t));
    size_t first = ZSTD_findFrameCompressedSize(value.data, value.size);
    if (ZSTD_isError(first) || !decode_index(hot, (struct bytes){value.data, first}, bytes_max) ||
        !header_valid(hot, image, process) || !blocks_valid(hot, value.size - first) ||
        !chunks_valid(hot, (uint32_t)records))
        return false;
    uint64_t offset = (uint64_t)(value.data - store->map) + first;
    for (uint32_t i = 0; i < hot->index->blocks_count; i++)
        blocks(hot)[i].where += offset;
    prefetch_bytes(store, offset, value.size - first);
    return true;
}

void hot_load(struct hot *hot, const struct store *store, const struct image *image, uint32_t index)
{
    const struct wr_process *process = image_process(image, index);
    struct bytes value;
    if (!store_hot(store, process->map_id, &value) || load(hot, store, image, process, value))
        return;
    warn("the working set is damaged and is not used: pack it again with 'restorer optimize'");
    free(hot->index);
    *hot = (struct hot){.index = NULL};
}
