/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <string.h>
#include <zstd.h>

uint32_t frame_check(struct bytes frame)
{
    uint32_t check = 0;
    if (frame.size >= sizeof(check))
        memcpy(&check, frame.data + frame.size - sizeof(check), sizeof(check));
    return check;
}

uint64_t frame_content_bytes(const struct store *store, const char *what, struct bytes frame, uint64_t limit)
{
    unsigned long long bytes = ZSTD_getFrameContentSize(frame.data, frame.size);
    if (bytes == ZSTD_CONTENTSIZE_ERROR || bytes == ZSTD_CONTENTSIZE_UNKNOWN)
        store_damaged(store, "%s is no zstd frame with a content size", what);
    if (bytes > limit)
        store_damaged(store, "%s claims to hold %llu bytes", what, bytes);
    return bytes;
}

void frame_decode(const struct store *store, const char *what, struct bytes frame, void *to, uint64_t bytes)
{
    size_t n = ZSTD_decompress(to, bytes, frame.data, frame.size);
    if (ZSTD_isError(n))
        store_damaged(store, "%s cannot be decoded: %s", what, ZSTD_getErrorName(n));
    if (n != bytes)
        store_damaged(store, "%s decodes to %zu bytes instead of %llu", what, n, (unsigned long long)bytes);
}
