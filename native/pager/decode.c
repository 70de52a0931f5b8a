/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames into pages. What a frame is encoded with its first four bytes tell, what its content must be its last four
 * (docs/format.md). A frame is no bigger than its reader's room, and nothing is written beyond that of its pages.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <lz4.h>
#include <zstd.h>
#define XXH_NO_STDLIB
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pager.h"

int decoder_init(const struct pager *p, struct decoder *decoder)
{
    decoder->zstd = ZSTD_initStaticDCtx(decoder->memory, p->rt->decoder_bytes);
    return decoder->zstd ? 0 : -ENOMEM;
}

long decoder_read(struct pager *p, uint8_t *input, uint64_t room, uint64_t where, uint32_t frame_bytes)
{
    uint64_t done = 0;

    if (frame_bytes > room || frame_bytes < sizeof(uint32_t))
        return -EBADMSG;
    while (done < frame_bytes) {
        long n = raw4(SYS_pread64, WR_PAGER_DATA, input + done, frame_bytes - done, where + done);

        if (n == -EINTR)
            continue;
        if (n < 0)
            return n;
        if (n == 0)
            return -EBADMSG;
        done += (uint64_t)n;
    }
    __atomic_fetch_add(&p->counters->read_bytes, done, __ATOMIC_RELAXED);
    return 0;
}

/* zstd compares the checksum of what it has decoded; that of an LZ4 frame covers the frame, which is shorter: what decodes
 * the same bytes comes to the same content. */
static int decode_lz4(const uint8_t *frame, uint32_t frame_bytes, uint32_t check, uint8_t *to, uint64_t bytes)
{
    struct wr_lz4 head;
    uint32_t covered = frame_bytes - (uint32_t)sizeof(check);

    if (covered < sizeof(head) || (uint32_t)XXH3_64bits(frame, covered) != check)
        return -EBADMSG;
    __builtin_memcpy(&head, frame, sizeof(head));
    if (head.content_bytes != bytes ||
        LZ4_decompress_safe((const char *)frame + sizeof(head), (char *)to, (int)(covered - sizeof(head)),
                            (int)bytes) != (int)bytes)
        return -EBADMSG;
    return 0;
}

int decoder_frame(struct decoder *decoder, const uint8_t *frame, uint32_t frame_bytes, uint32_t check,
                  uint8_t *to, uint64_t bytes)
{
    uint32_t magic, end;

    __builtin_memcpy(&magic, frame, sizeof(magic));
    __builtin_memcpy(&end, frame + frame_bytes - sizeof(end), sizeof(end));
    if (end != check)
        return -EBADMSG;
    if (magic == WR_LZ4_MAGIC)
        return decode_lz4(frame, frame_bytes, check, to, bytes);
    return ZSTD_decompressDCtx(decoder->zstd, to, bytes, frame, frame_bytes) == bytes ? 0 : -EBADMSG;
}

int decoder_record(struct pager *p, struct decoder *decoder, const struct wr_record *record, uint8_t *pages)
{
    uint64_t bytes = (uint64_t)__builtin_popcount(record->mask) * WR_PAGE_BYTES;
    long result = decoder_read(p, decoder->input, p->rt->input_bytes, record->where, record->frame_bytes);

    if (result != 0)
        return (int)result;
    decoder->read_at = trace_now();
    if (decoder_frame(decoder, decoder->input, record->frame_bytes, record->check, pages, bytes) != 0)
        return -EBADMSG;
    __atomic_fetch_add(&p->counters->decoded_chunks, 1, __ATOMIC_RELAXED);
    return 0;
}

int decoder_run(struct pager *p, struct decoder *decoder, uint64_t index, uint8_t *pages)
{
    return decoder_record(p, decoder, &p->records[index], pages);
}
