/* SPDX-License-Identifier: Apache-2.0
 *
 * The working set: chunks that earlier restores needed, packed in the order of use. A block is read and decoded as one,
 * then its chunks are installed one a turn, so that a fault waits for one of them at most. It only saves time: every
 * chunk is in the page index too, and a block that cannot be used ends the matter.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"

static const struct wr_hot_block *blocks(const struct pager *p)
{
    return (const struct wr_hot_block *)(p->hot + 1);
}

static const uint32_t *chunks(const struct pager *p)
{
    return (const uint32_t *)(blocks(p) + p->hot->blocks_count);
}

void hot_init(struct pager *p)
{
    p->hot = (const struct wr_hot *)p->rt->hot;
    p->hot_blocks = p->hot ? p->hot->blocks_count : 0;
}

static int block_needed(const struct pager *p, const struct wr_hot_block *block)
{
    for (uint32_t i = 0; i < block->count; i++)
        if (pager_needs(p, chunks(p)[block->first + i]))
            return 1;
    return 0;
}

/* Where each chunk of the block begins, and how long all of them are. */
static uint64_t lay_out(struct pager *p, const struct wr_hot_block *block)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < block->count; i++) {
        p->hot_at[i] = (uint32_t)bytes;
        bytes += (uint64_t)__builtin_popcount(p->records[chunks(p)[block->first + i]].mask) * WR_PAGE_BYTES;
    }
    return bytes;
}

static int decode_block(struct pager *p, const struct wr_hot_block *block)
{
    uint8_t *frame = (uint8_t *)p->rt->hot_input;
    uint64_t bytes = lay_out(p, block);

    if (bytes > WR_HOT_BLOCK_BYTES ||
        decoder_read(p, frame, p->rt->hot_input_bytes, block->where, block->frame_bytes) != 0 ||
        decoder_frame(&p->decoder, frame, block->frame_bytes, block->check, (uint8_t *)p->rt->hot_buffer,
                      bytes) != 0)
        return -EBADMSG;
    p->counters->hot_blocks++;
    return 0;
}

/* The next block of which something is needed; 0 if there is none. */
static int open_block(struct pager *p)
{
    p->hot_open = NULL;
    while (p->hot_next < p->hot_blocks) {
        const struct wr_hot_block *block = &blocks(p)[p->hot_next++];

        if (!block_needed(p, block))
            continue;
        if (decode_block(p, block) != 0) {
            pager_say(WR_MESSAGE_HOT_BAD, p->hot_next - 1, 0, 0, -1);
            p->hot_blocks = 0;
            return 0;
        }
        p->hot_open = block;
        p->hot_chunk = 0;
        return 1;
    }
    return 0;
}

static void install(struct pager *p, uint32_t i, uint64_t *counter)
{
    uint32_t record = chunks(p)[p->hot_open->first + i];
    struct decoded decoded = {.record = record, .pages = (uint8_t *)p->rt->hot_buffer + p->hot_at[i]};
    uint64_t before = *counter;

    pager_install(p, &decoded, counter);
    p->counters->hot_pages += *counter - before;
}

int hot_one(struct pager *p, uint64_t *counter)
{
    for (;;) {
        while (p->hot_open && p->hot_chunk < p->hot_open->count) {
            uint32_t i = p->hot_chunk++;

            if (!pager_needs(p, chunks(p)[p->hot_open->first + i]))
                continue;
            install(p, i, counter);
            return 1;
        }
        if (!open_block(p))
            return 0;
    }
}

int hot_eager(const struct pager *p)
{
    int open = p->hot_open && p->hot_chunk < p->hot_open->count;

    return p->hot_blocks && (open || p->hot_next < p->hot->eager_blocks);
}

int hot_fault(struct pager *p, uint64_t record, uint64_t *counter)
{
    for (uint32_t i = 0; p->hot_open && i < p->hot_open->count; i++)
        if (chunks(p)[p->hot_open->first + i] == record) {
            install(p, i, counter);
            return 1;
        }
    return 0;
}
