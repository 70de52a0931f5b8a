/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a chunk is decoded to. Pages that are moved out of staging cost a page fault and a cleared page to replace: so only
 * faults get them, from slots populated while there was time, and where a MOVE is the cheaper way (cost.c). All else is
 * copied out of one buffer that stays in the cache. docs/decisions.md has the figures.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int chunk_init(struct pager *p)
{
    p->decoder.memory = (uint8_t *)p->rt->decoder;
    p->decoder.input = (uint8_t *)p->rt->input;
    p->decoder.packed = p->buffer;
    p->slots_count = (uint32_t)(p->rt->staging_bytes / WR_CHUNK_BYTES);
    return p->slots_count ? decoder_init(p, &p->decoder) : -ENOMEM;
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
    decoded->staged = urgent && chunk_slots_ready(p) && cost_choose_move(p, batch_any(p));
    decoded->pages = p->buffer;
    if (!decoded->staged)
        return;
    decoded->pages = slot(p, p->slots_taken);
    __atomic_add_fetch(&p->slots_taken, 1, __ATOMIC_SEQ_CST);
    if (chunk_slots_ready(p) < p->slots_count / 2)
        worker_ring(&p->ahead.worker);
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
    uint64_t began = trace_now();

    raw3(SYS_madvise, slot(p, p->slots_populated), WR_CHUNK_BYTES, MADV_POPULATE_WRITE);
    cost_note(&p->costs.populate, trace_now() - began, WR_CHUNK_PAGES);
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
