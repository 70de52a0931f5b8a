/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches: the fill takes the records of one 2 MiB window at a time, in order of address. Pager and decoding thread take
 * records of it one by one; when the last is decoded the pager installs them.
 *
 * A window that is dense and of which nothing has been touched yet is decoded in place into one huge page, which a single
 * MOVE puts where the program expects it: no page is copied, no page table is made. It leaves a hole, and a new huge page
 * for the hole can be dear, where memory has to be compacted or the host of a virtual machine has taken it back: the
 * thread that populates measures that, and from then on pages are copied out of memory that stays. docs/decisions.md has
 * the figures.
 *
 * Any other window is copied chunk by chunk, which leaves the batch its memory.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "pager.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    HUGE_PAGES = WR_HUGE_BYTES / WR_PAGE_BYTES,
    DENSE_PAGES =
        HUGE_PAGES - HUGE_PAGES / 16, /* what a huge page adds to the program's memory at most: a 16th */
    COPIES_MIN = 64,                  /* before so many pages were copied their cost is not known */
};

void batch_init(struct pager *p)
{
    for (int i = 0; i < WR_BATCHES; i++)
        p->batches[i].memory = (uint8_t *)p->rt->batches + (uint64_t)i * WR_HUGE_BYTES;
}

static uint16_t mask_of(const struct pager *p, const struct batch *batch, uint32_t place)
{
    return p->records[batch->first + place].mask;
}

/* Where the window of the record at `place` lies in the huge page. */
static uint8_t *spread_at(const struct pager *p, const struct batch *batch, uint32_t place)
{
    return batch->memory + (p->records[batch->first + place].addr - batch->window);
}

static uint8_t *pages_at(const struct pager *p, const struct batch *batch, uint32_t place)
{
    return batch->spread ? spread_at(p, batch, place) : batch->memory + (uint64_t)place * WR_CHUNK_BYTES;
}

int batch_any(const struct pager *p)
{
    for (int i = 0; i < WR_BATCHES; i++)
        if (__atomic_load_n(&p->batches[i].count, __ATOMIC_RELAXED))
            return 1;
    return 0;
}

/* ---- who decodes what ---- */

int batch_take(struct batch *batch, uint32_t place)
{
    uint32_t free = TAKE_FREE;

    return __atomic_compare_exchange_n(&batch->take[place], &free, TAKE_TAKEN, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

void batch_finish(struct batch *batch, uint32_t place, int result)
{
    batch->results[place] = result;
    __atomic_store_n(&batch->take[place], TAKE_DONE, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&batch->done, 1, __ATOMIC_SEQ_CST);
}

/* Packed pages to where they lie in the window. */
static void spread(const uint8_t *packed, uint8_t *window, uint16_t mask)
{
    for (uint32_t page = 0; page < WR_CHUNK_PAGES; page++) {
        if (!(mask >> page & 1))
            continue;
        __builtin_memcpy(window + page * (uint64_t)WR_PAGE_BYTES, packed, WR_PAGE_BYTES);
        packed += WR_PAGE_BYTES;
    }
}

static void decode(struct pager *p, struct decoder *decoder, struct batch *batch, uint32_t place)
{
    uint16_t mask = mask_of(p, batch, place);
    int packed = batch->spread && mask != UINT16_MAX;
    uint8_t *pages = packed ? decoder->packed : pages_at(p, batch, place);
    int result = decoder_run(p, decoder, batch->first + place, pages);

    if (packed && result == 0)
        spread(pages, spread_at(p, batch, place), mask);
    batch_finish(batch, place, result);
}

static int take_any(struct batch *batch, uint32_t *place)
{
    for (*place = 0; *place < BATCH_RECORDS; ++*place)
        if (__atomic_load_n(&batch->take[*place], __ATOMIC_SEQ_CST) == TAKE_FREE && batch_take(batch, *place))
            return 1;
    return 0;
}

static uint32_t populated(const struct batch *batch)
{
    return __atomic_load_n(&batch->populated, __ATOMIC_SEQ_CST);
}

/* Batches are opened in a ring: number `age` of those that may be open, the oldest first. */
static struct batch *by_age(struct pager *p, uint32_t age)
{
    return &p->batches[(__atomic_load_n(&p->batches_opened, __ATOMIC_SEQ_CST) + age) % WR_BATCHES];
}

static int decode_populated(struct pager *p, struct decoder *decoder, int only_whole)
{
    uint32_t place;

    for (uint32_t age = 0; age < WR_BATCHES; age++) {
        struct batch *batch = by_age(p, age);

        if (populated(batch) != POPULATED || (only_whole && !batch->whole) || !take_any(batch, &place))
            continue;
        decode(p, decoder, batch, place);
        return 1;
    }
    return 0;
}

/* ---- the decoding thread ---- */

/* Whether a huge page that took so long would better have been 512 copies. */
static int is_dear(const struct pager *p, uint64_t cycles)
{
    uint64_t pages = __atomic_load_n(&p->counters->copied_pages, __ATOMIC_RELAXED);

    return pages >= COPIES_MIN && cycles > cost_of_copies(p, HUGE_PAGES);
}

/* A failure costs only time: decoding into a hole faults the page in. */
static void populate(struct pager *p, struct batch *batch)
{
    uint64_t began = trace_now();

    raw3(SYS_madvise, batch->memory, WR_HUGE_BYTES, MADV_POPULATE_WRITE);
    if (!p->huge_dear && is_dear(p, trace_now() - began)) {
        __atomic_store_n(&p->huge_dear, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&p->counters->huge_dear, 1, __ATOMIC_RELAXED);
        raw3(SYS_madvise, p->rt->batches, (uint64_t)WR_BATCHES * WR_HUGE_BYTES, MADV_NOHUGEPAGE);
    }
    __atomic_store_n(&batch->populated, POPULATED, __ATOMIC_SEQ_CST);
}

/* Memory first, so that the pager finds a batch to decode into, too. */
int batch_help(struct pager *p, struct decoder *decoder)
{
    for (uint32_t age = 0; age < WR_BATCHES; age++) {
        struct batch *batch = by_age(p, age);

        if (!__atomic_load_n(&batch->count, __ATOMIC_SEQ_CST) || populated(batch) != POPULATED_NOT)
            continue;
        populate(p, batch);
        return 1;
    }
    return decode_populated(p, decoder, 0);
}

/* ---- the pager: opening ---- */

uint64_t batch_window_of(const struct pager *p, uint64_t record)
{
    return p->records[record].addr & ~(uint64_t)(WR_HUGE_BYTES - 1);
}

static uint32_t stored_pages(const struct pager *p, const struct batch *batch)
{
    uint32_t pages = 0;

    for (uint32_t i = 0; i < batch->count; i++)
        pages += (uint32_t)__builtin_popcount(mask_of(p, batch, i));
    return pages;
}

/* Where the window is seen by the program, all of it in one piece that a huge page fits; 0 if it is not. Nothing of it
 * has been installed or dropped yet, for then the kernel would take the huge page apart, and no forked child needs it. */
static uint64_t place_whole(const struct pager *p, const struct batch *batch)
{
    const struct space *own = &p->spaces[0];
    uint32_t flags = 0;
    uint64_t at = space_place(own, batch->window, WR_HUGE_BYTES, &flags);

    if (p->spaces_used != 1 || at % WR_HUGE_BYTES || !(flags & WR_SEGMENT_MOVE) || flags & WR_SEGMENT_NOHUGE)
        return 0;
    for (uint32_t i = 0; i < batch->count; i++)
        if (own->need[batch->first + i] != mask_of(p, batch, i))
            return 0;
    return at;
}

/* Pages of the window that the image does not have are zeroes. */
static void zero_gaps(const struct pager *p, const struct batch *batch)
{
    uint64_t record = batch->first;

    for (uint64_t at = 0; at < WR_HUGE_BYTES; at += WR_PAGE_BYTES) {
        uint64_t addr = batch->window + at;

        if (record < batch->first + batch->count && addr >= p->records[record].addr + WR_CHUNK_BYTES)
            record++;
        if (record == batch->first + batch->count || addr < p->records[record].addr ||
            !(p->records[record].mask >> (addr - p->records[record].addr) / WR_PAGE_BYTES & 1))
            __builtin_memset(batch->memory + at, 0, WR_PAGE_BYTES);
    }
}

static void decide_whole(const struct pager *p, struct batch *batch)
{
    int starts_window = batch->first == 0 || batch_window_of(p, batch->first - 1) != batch->window;

    batch->whole = !__atomic_load_n(&p->huge_dear, __ATOMIC_SEQ_CST) && starts_window &&
                   stored_pages(p, batch) >= DENSE_PAGES && place_whole(p, batch) != 0;
    batch->spread = batch->whole;
    if (batch->whole && batch->dirty)
        zero_gaps(p, batch);
    batch->dirty = 1;
}

/* `take` last, and `count` before it: the other thread looks at nothing else of a batch before it has seen them. What is needed
 * is looked at once: in a storm it may have come the next time. */
static void publish(struct pager *p, struct batch *batch, uint32_t count)
{
    uint32_t free = 0;

    batch->done = 0;
    for (uint32_t i = 0; i < count; i++) {
        int needed = space_needed(&p->spaces[0], batch->first + i) != 0;

        batch->results[i] = -EAGAIN;
        batch->done += !needed;
        free |= (uint32_t)needed << i;
    }
    __atomic_add_fetch(&p->batches_opened, 1, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < count; i++)
        __atomic_store_n(&batch->take[i], free >> i & 1 ? TAKE_FREE : TAKE_DONE, __ATOMIC_SEQ_CST);
    worker_ring(&p->ahead.worker);
}

/* Opens the oldest batch for the next records that are needed; 0 if it is not free, or none is left. */
static int open_next(struct pager *p)
{
    struct batch *batch = by_age(p, 0);
    const uint16_t *need = p->spaces[0].need;
    uint64_t record = p->batch_next;
    uint32_t count = 0;

    while (record < p->records_count && !need[record])
        record++;
    __atomic_store_n(&p->batch_next, record, __ATOMIC_SEQ_CST);
    if (batch->count || record == p->records_count)
        return 0;
    batch->first = record;
    batch->window = batch_window_of(p, record);
    batch->installed = 0;
    batch->broken = 0;
    for (uint32_t i = 0; i < BATCH_RECORDS; i++)
        batch->take[i] = TAKE_DONE;
    while (record + count < p->records_count && batch_window_of(p, record + count) == batch->window)
        count++;
    __atomic_store_n(&batch->count, count, __ATOMIC_SEQ_CST);
    decide_whole(p, batch);
    __atomic_store_n(&p->batch_next, record + count, __ATOMIC_SEQ_CST);
    publish(p, batch, count);
    return 1;
}

/* ---- the pager: installing ---- */

struct batch *batch_find(struct pager *p, uint64_t record, uint32_t *place)
{
    for (int i = 0; i < WR_BATCHES; i++) {
        struct batch *batch = &p->batches[i];

        *place = (uint32_t)(record - batch->first);
        if (batch->count && record >= batch->first && *place < batch->count)
            return batch;
    }
    return NULL;
}

int batch_decoded(struct pager *p, struct batch *batch, uint32_t place, struct decoded *decoded)
{
    if (__atomic_load_n(&batch->take[place], __ATOMIC_SEQ_CST) != TAKE_DONE)
        return -EAGAIN;
    decoded->pages = pages_at(p, batch, place);
    decoded->spread = (int)batch->spread;
    return batch->results[place];
}

static int is_done(const struct batch *batch)
{
    return batch->count && __atomic_load_n(&batch->done, __ATOMIC_SEQ_CST) == batch->count;
}

/* The pages that have been moved: `bytes` from the start of the window on. */
static void settle_moved(struct pager *p, struct batch *batch, uint64_t bytes, uint64_t *counter)
{
    uint64_t settled = 0;

    for (uint32_t i = 0; i < batch->count; i++) {
        uint64_t at = p->records[batch->first + i].addr - batch->window;
        uint64_t pages = bytes > at ? (bytes - at) / WR_PAGE_BYTES : 0;

        settled += space_settle(&p->spaces[0], batch->first + i, 0,
                                pages < WR_CHUNK_PAGES ? (uint32_t)pages : WR_CHUNK_PAGES);
    }
    p->counters->moved_pages += settled;
    p->counters->huge_pages += settled;
    *counter += settled;
}

static int all_good(const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++)
        if (batch->results[i] != 0)
            return 0;
    return 1;
}

/* Whatever keeps the kernel from moving the huge page as it is, the chunks can be copied out of it. */
static void move_whole(struct pager *p, struct batch *batch, uint64_t *counter)
{
    uint64_t at = all_good(batch) ? place_whole(p, batch) : 0;
    long done = at ? install_huge(p, at, batch->memory) : -EINVAL;

    if (done == -EAGAIN) {
        events_settle(p, &p->spaces[0]);
        return;
    }
    batch->whole = 0;
    if (done <= 0)
        return;
    batch->broken = 1;
    settle_moved(p, batch, (uint64_t)done, counter);
}

/* The memory of a batch that has lost pages is given back, so that it can become one huge page again. */
static void close_batch(struct batch *batch)
{
    if (batch->broken) {
        raw3(SYS_madvise, batch->memory, WR_HUGE_BYTES, MADV_DONTNEED);
        batch->dirty = 0;
        __atomic_store_n(&batch->populated, POPULATED_NOT, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&batch->count, 0, __ATOMIC_SEQ_CST);
}

/* One move or one chunk: a fault waits for no more. */
static void install_some(struct pager *p, struct batch *batch, uint64_t *counter)
{
    if (batch->whole) {
        move_whole(p, batch, counter);
        return;
    }
    while (batch->installed < batch->count) {
        uint32_t place = batch->installed++;
        struct decoded decoded = {.record = batch->first + place};
        int result;

        if (!pager_needs(p, decoded.record))
            continue;
        result = batch_decoded(p, batch, place, &decoded);
        if (result == -EAGAIN)
            pager_bring(p, decoded.record, 0, counter);
        else
            pager_deliver(p, result, &decoded, counter);
        return;
    }
    close_batch(batch);
}

/* Into the pager's own buffer, which stays in the cache, and from there into place: of batches that will be copied chunk by
 * chunk anyway, or have no memory yet; the youngest one, so that the others stay whole. */
static int bring_loose(struct pager *p, uint64_t *counter)
{
    uint32_t place;

    for (uint32_t age = WR_BATCHES; age-- > 0;) {
        struct batch *batch = by_age(p, age);

        if (!batch->count || !take_any(batch, &place))
            continue;
        pager_bring(p, batch->first + place, 0, counter);
        batch_finish(batch, place, -EAGAIN);
        return 1;
    }
    return 0;
}

int batch_advance(struct pager *p, uint64_t *counter)
{
    for (uint32_t age = 0; age < WR_BATCHES; age++)
        if (is_done(by_age(p, age))) {
            install_some(p, by_age(p, age), counter);
            return 1;
        }
    return open_next(p);
}

int batch_step(struct pager *p, uint64_t *counter)
{
    return batch_advance(p, counter) || decode_populated(p, &p->decoder, 1) || bring_loose(p, counter);
}
