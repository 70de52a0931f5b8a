/* SPDX-License-Identifier: Apache-2.0
 *
 * A chunk's bytes, from the store into memory. Pages that are moved out of staging cost a page fault and a cleared page
 * to replace, more than copying would: so MOVE serves the faults, from slots populated while there was time, and the
 * fill copies out of one buffer that stays in the cache. docs/decisions.md has the figures.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include "pager.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int decoder_init(const struct pager *p, struct decoder *decoder)
{
    decoder->zstd = ZSTD_initStaticDCtx(decoder->memory, p->rt->decoder_bytes);
    return decoder->zstd ? 0 : -ENOMEM;
}

int chunk_init(struct pager *p)
{
    p->decoder.memory = (uint8_t *)p->rt->decoder;
    p->decoder.input = (uint8_t *)p->rt->input;
    p->decoder.packed = p->buffer;
    p->slots_count = (uint32_t)(p->rt->staging_bytes / WR_CHUNK_BYTES);
    return p->slots_count ? decoder_init(p, &p->decoder) : -ENOMEM;
}

static long read_frame(struct pager *p, const struct wr_record *record, uint8_t *input)
{
    uint64_t done = 0;

    if (record->frame_bytes > p->rt->input_bytes || record->frame_bytes < sizeof(record->check))
        return -EBADMSG;
    while (done < record->frame_bytes) {
        long n =
            raw4(SYS_pread64, WR_PAGER_DATA, input + done, record->frame_bytes - done, record->where + done);

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

int decoder_run(struct pager *p, struct decoder *decoder, uint64_t index, uint8_t *pages)
{
    return decoder_decode(p, decoder, &p->records[index], pages);
}

int decoder_decode(struct pager *p, struct decoder *decoder, const struct wr_record *record, uint8_t *pages)
{
    uint64_t bytes = (uint64_t)__builtin_popcount(record->mask) * WR_PAGE_BYTES;
    long result = read_frame(p, record, decoder->input);
    uint32_t check;

    if (result != 0)
        return (int)result;
    decoder->read_at = trace_now();
    __builtin_memcpy(&check, decoder->input + record->frame_bytes - sizeof(check), sizeof(check));
    if (check != record->check)
        return -EBADMSG;
    if (ZSTD_decompressDCtx(decoder->zstd, pages, WR_CHUNK_BYTES, decoder->input, record->frame_bytes) !=
        bytes)
        return -EBADMSG;
    __atomic_fetch_add(&p->counters->decoded_chunks, 1, __ATOMIC_RELAXED);
    return 0;
}

static uint8_t *slot(const struct pager *p, uint32_t index)
{
    return (uint8_t *)p->rt->staging + (uint64_t)(index % p->slots_count) * WR_CHUNK_BYTES;
}

uint32_t chunk_slots_ready(const struct pager *p)
{
    return __atomic_load_n(&p->slots_populated, __ATOMIC_SEQ_CST) -
           __atomic_load_n(&p->slots_taken, __ATOMIC_SEQ_CST);
}

static void take_place(struct pager *p, int urgent, struct decoded *decoded)
{
    decoded->staged = urgent && chunk_slots_ready(p);
    decoded->pages = p->buffer;
    if (!decoded->staged)
        return;
    decoded->pages = slot(p, p->slots_taken);
    __atomic_add_fetch(&p->slots_taken, 1, __ATOMIC_SEQ_CST);
    if (chunk_slots_ready(p) < p->slots_count / 2)
        ahead_ring(p);
}

int chunk_decode(struct pager *p, uint64_t index, int urgent, struct decoded *decoded)
{
    decoded->record = index;
    decoded->spread = 0;
    take_place(p, urgent, decoded);
    return decoder_run(p, &p->decoder, index, decoded->pages);
}

/* A failure costs only time: decoding into a hole faults the page in. */
void chunk_populate_one(struct pager *p)
{
    raw3(SYS_madvise, slot(p, p->slots_populated), WR_CHUNK_BYTES, MADV_POPULATE_WRITE);
    __atomic_add_fetch(&p->slots_populated, 1, __ATOMIC_SEQ_CST);
}

uint8_t *chunk_place(uint16_t mask, uint8_t *pages, uint32_t page)
{
    uint16_t below = (uint16_t)(mask & ((1u << page) - 1));

    return pages + (uint64_t)__builtin_popcount(below) * WR_PAGE_BYTES;
}

uint8_t *chunk_page(const struct pager *p, const struct decoded *decoded, uint32_t page)
{
    if (decoded->spread)
        return decoded->pages + (uint64_t)page * WR_PAGE_BYTES;
    return chunk_place(p->records[decoded->record].mask, decoded->pages, page);
}
