/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared memory that comes lazily. A page of it is missing while it is not in the file's page cache, for all who map it;
 * UFFDIO_COPY puts it there, for all of them. So what is still needed is known once a tree, in memory that its pagers
 * share, and every pager brings pages for all.
 *
 * Each process that has such memory has a window on all of it, which only its pager uses: pages go in there, whatever the
 * program shows of the memory by now. The windows have a userfaultfd without events: nothing that the program does holds
 * them up (mmap_changing). What the program and its children see (views) only says which page a fault is about.
 *
 * A bit in `need` is cleared, and a page copied because its bit is set, under a lock: else one pager could copy a page that
 * the program has just had removed (MADV_REMOVE) by another process, where EEXIST does not tell.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "mutex.h"
#include "pager.h"
#include "uffd.h"

enum { SHARED_VIEWS_MIN = 16384 };

void shared_lock(struct pager *p)
{
    uint32_t *word = &p->shared.common->lock;

    if (p->failing || mutex_try(word))
        return;
    while (mutex_contend(word))
        pager_await(p, word, 2);
}

void shared_unlock(struct pager *p)
{
    if (!p->failing)
        mutex_give(&p->shared.common->lock);
}

uint64_t shared_record_at(const struct shared *shared, uint64_t addr)
{
    struct space records = {.records = shared->records, .records_count = shared->records_count};

    return space_record_at(&records, addr);
}

uint16_t shared_pages_within(const struct wr_record *record, uint64_t start, uint64_t end)
{
    uint32_t mask = 0;

    for (uint32_t page = 0; page < WR_CHUNK_PAGES; page++) {
        uint64_t at = record->addr + page * (uint64_t)WR_PAGE_BYTES;

        mask |= at >= start && at < end ? 1u << page : 0;
    }
    return (uint16_t)mask;
}

static uint16_t need_of(const struct shared *shared, uint64_t index)
{
    return __atomic_load_n(&shared->need[index], __ATOMIC_ACQUIRE);
}

static void init_windows(struct pager *p)
{
    struct shared *shared = &p->shared;

    for (uint32_t i = 0; i < p->process->segments_count; i++) {
        const struct wr_segment *s = &p->segments[i];
        struct window *window = &shared->windows[shared->windows_count];

        if (!(s->flags & WR_SEGMENT_WINDOW))
            continue;
        window->start = s->start;
        window->end = s->end;
        window->first = window->next = window->claim = shared_record_at(shared, s->start);
        window->last = shared_record_at(shared, s->end);
        window->held = 1;
        shared->windows_count++;
    }
}

static void init_views(struct pager *p)
{
    struct space *own = &p->shared.spaces[0];

    for (uint32_t i = 0; i < p->process->segments_count; i++) {
        const struct wr_segment *s = &p->segments[i];

        if (s->flags & WR_SEGMENT_SHARED)
            own->views[own->views_count++] =
                (struct view){.start = s->start, .end = s->end, .image = s->image, .flags = s->flags};
    }
    own->uffd = WR_PAGER_SHARED;
    p->shared.window.uffd = WR_PAGER_WINDOW;
}

static uint64_t count_pages(const struct shared *shared)
{
    uint64_t pages = 0;

    for (uint64_t i = 0; i < shared->records_count; i++)
        if (shared->records[i].flags & WR_RECORD_SHARED)
            pages += (uint64_t)__builtin_popcount(shared->records[i].mask);
    return pages;
}

static int has_window(const struct pager *p)
{
    for (uint32_t i = 0; i < p->process->segments_count; i++)
        if (p->segments[i].flags & WR_SEGMENT_WINDOW)
            return 1;
    return 0;
}

uint64_t shared_init(struct pager *p, uint8_t *pool, uint64_t pool_bytes)
{
    struct shared *shared = &p->shared;
    uint64_t views_max = p->process->segments_count + SHARED_VIEWS_MIN;
    uint64_t each = sizeof(struct space) + views_max * sizeof(struct view), used, room;

    shared->records = (const struct wr_record *)p->rt->shared_records;
    shared->records_count = p->rt->shared_count;
    if (shared->records == p->records)
        p->counters->total_pages += count_pages(shared);
    if (!p->rt->shared || !has_window(p))
        return 0;
    shared->common = (struct wr_shared *)p->rt->shared;
    shared->need = (uint16_t *)(shared->common + 1);
    shared->taken = (uint8_t *)(shared->need + shared->records_count);
    shared->buffer = pool;
    shared->windows = (struct window *)(pool + WR_CHUNK_BYTES);
    used = WR_CHUNK_BYTES + ((p->process->segments_count * sizeof(struct window) + 63) & ~(uint64_t)63);
    shared->spaces = (struct space *)(pool + used);
    room = pool_bytes / 2 / each;
    if (!room)
        pager_lost(WR_LOST_POOL, -ENOMEM);
    shared->spaces_count = (uint32_t)(room < SPACES_MAX ? room : SPACES_MAX);
    used += shared->spaces_count * each;
    for (uint32_t s = 0; s < shared->spaces_count; s++) {
        struct view *views = (struct view *)(shared->spaces + shared->spaces_count) + s * views_max;

        shared->spaces[s] = (struct space){.uffd = -1, .views_max = (uint32_t)views_max, .views = views};
    }
    shared->spaces_used = 1;
    init_windows(p);
    init_views(p);
    return (used + WR_PAGE_BYTES - 1) & ~(uint64_t)(WR_PAGE_BYTES - 1);
}

/* Clears bits; the lock is held. */
static void settle(struct shared *shared, uint64_t index, uint32_t first, uint32_t count)
{
    uint16_t gone = (uint16_t)(((1u << count) - 1) << first);

    __atomic_store_n(&shared->need[index], (uint16_t)(shared->need[index] & ~gone), __ATOMIC_RELEASE);
}

/* A run of needed pages, at most `max` of them. Pages done; 0: one page was there already; -errno. */
static long put_run(struct pager *p, uint64_t index, uint8_t *pages, uint32_t max)
{
    struct shared *shared = &p->shared;
    const struct wr_record *record = &shared->records[index];
    uint32_t need = shared->need[index], first = (uint32_t)__builtin_ctz(need), count = 1;
    long done;

    while (count < max && need >> (first + count) & 1)
        count++;
    done = install_copy(&shared->window, record->addr + first * (uint64_t)WR_PAGE_BYTES,
                        chunk_place(record->mask, pages, first), (uint64_t)count * WR_PAGE_BYTES);
    if (done == -EEXIST && count == 1)
        done = 0;
    if (done < 0)
        return done;
    p->counters->copied_pages += (uint64_t)done / WR_PAGE_BYTES;
    p->counters->dropped_pages += done == 0;
    settle(shared, index, first, done ? (uint32_t)(done / WR_PAGE_BYTES) : 1);
    return done / WR_PAGE_BYTES;
}

static int is_held(const struct shared *shared, uint64_t index)
{
    for (uint32_t w = 0; w < shared->windows_count; w++)
        if (index >= shared->windows[w].first && index < shared->windows[w].last)
            return shared->windows[w].held;
    return 0;
}

/* By now nobody may see the memory any more, and the window be gone. */
static void put(struct pager *p, uint64_t index, uint64_t *counter)
{
    struct shared *shared = &p->shared;

    shared_lock(p);
    while (shared->need[index] && is_held(shared, index)) {
        long done = put_run(p, index, shared->buffer, WR_CHUNK_PAGES);

        if (done < 0)
            done = put_run(p, index, shared->buffer, 1);
        if (done < 0)
            pager_lost(WR_LOST_INSTALL, done);
        *counter += (uint64_t)done;
    }
    shared_unlock(p);
}

/* A bad chunk cannot be poisoned: that is done to the page table of one process, and does not outlive its forks, which
 * take no page tables of shared memory along (vma_needs_copy in mm/memory.c). */
static void bring(struct pager *p, uint64_t index, uint64_t *counter)
{
    const struct wr_record *record = &p->shared.records[index];
    int result;

    while (!__atomic_load_n(&p->shared.common->index_ready, __ATOMIC_ACQUIRE))
        pager_await(p, &p->shared.common->index_ready, 0);
    result = decoder_record(p, &p->decoder, record, p->shared.buffer);
    trace_phase(p, WR_PHASE_READ, p->decoder.read_at);
    trace_phase(p, WR_PHASE_DECODE, trace_now());
    if (result == -EBADMSG || result == -EIO)
        pager_say(WR_MESSAGE_SHARED_BAD, record->addr, record->where,
                  (uint64_t)__builtin_popcount(record->mask), -1);
    if (result != 0)
        pager_lost(WR_LOST_DATA_READ, result);
    put(p, index, counter);
}

int shared_eager_one(struct pager *p, int all)
{
    struct shared *shared = &p->shared;

    for (uint32_t w = 0; w < shared->windows_count; w++)
        for (uint64_t i = shared->windows[w].next; i < shared->windows[w].last; i++) {
            if (!need_of(shared, i) || !(all || shared->records[i].flags & WR_RECORD_EAGER))
                continue;
            bring(p, i, &p->counters->eager_pages);
            return 1;
        }
    return 0;
}

/* The next record of the window that is needed and that nobody has taken on: -1 when none is left. */
static int64_t claim(struct shared *shared, struct window *window)
{
    for (; window->claim < window->last; window->claim++)
        if (need_of(shared, window->claim) &&
            !__atomic_exchange_n(&shared->taken[window->claim], 1, __ATOMIC_RELAXED))
            return (int64_t)window->claim;
    return -1;
}

/* The first record of the window that is still needed; `last` if none. */
static uint64_t lacking(struct shared *shared, struct window *window)
{
    while (window->next < window->last && !need_of(shared, window->next))
        window->next++;
    return window->next;
}

/* When all are taken on, those that have not come are done again: who took them on may have ended. */
static int fill_one(struct pager *p)
{
    struct shared *shared = &p->shared;

    for (uint32_t w = 0; w < shared->windows_count; w++) {
        struct window *window = &shared->windows[w];
        int64_t index = window->held ? claim(shared, window) : -1;

        if (index < 0 && window->held && lacking(shared, window) < window->last)
            index = (int64_t)window->next;
        if (index < 0)
            continue;
        bring(p, (uint64_t)index, &p->counters->fill_pages);
        return 1;
    }
    return 0;
}

int shared_fill_one(struct pager *p)
{
    if (p->target_gone ? p->shared.spaces_used < 2 : p->ctl->fill == WR_FILL_NONE)
        return 0;
    return fill_one(p);
}

static void release_children(struct pager *p)
{
    for (uint32_t s = 1; s < p->shared.spaces_count; s++)
        if (p->shared.spaces[s].uffd >= 0)
            shared_release(p, &p->shared.spaces[s]);
}

/* Pages go into our own window, so nothing that the children do can hold this up. */
void shared_make_room(struct pager *p)
{
    if (p->shared.spaces_used < p->shared.spaces_count)
        return;
    shared_reap(p);
    if (p->shared.spaces_used < p->shared.spaces_count)
        return;
    while (fill_one(p))
        continue;
    release_children(p);
}

int shared_loaded(struct shared *shared)
{
    for (uint32_t w = 0; w < shared->windows_count; w++)
        if (shared->windows[w].held && lacking(shared, &shared->windows[w]) < shared->windows[w].last)
            return 0;
    return 1;
}

int shared_complete(struct pager *p)
{
    struct shared *shared = &p->shared;

    if (!shared->common || (p->target_gone && shared->spaces_used == 1))
        return 1;
    if (!shared_loaded(shared))
        return 0;
    release_children(p);
    return 1;
}

/* Zeroes where the image has none, or where they were removed; where the page is there, nothing. */
static void zero(struct pager *p, uint64_t image)
{
    install_zero(p, &p->shared.window, image);
}

/* Whether [start, end) lies in one VMA that is watched: else there is no place for so much (ENOENT), and if so there is
 * nothing to copy from (EFAULT), for the guard below staging cannot be read. 1, 0, or -EAGAIN: an event waits. */
static int is_one_vma(const struct pager *p, const struct space *space, uint64_t start, uint64_t end)
{
    long result = install_copy(space, start, (const uint8_t *)p->rt->staging - WR_PAGE_BYTES, end - start);

    return result == -EAGAIN ? -EAGAIN : result == -EFAULT || result == -EEXIST;
}

/* What a fault at `addr` is about; 0 if the mapping has gone, or events must be read first. A VMA that grows in place tells
 * nobody, but goes on showing the memory in order. What is not known although no event waits is not guessed. */
static uint64_t find_shown(struct pager *p, struct space *space, uint64_t addr)
{
    uint64_t image = space_shown(space, addr), below = space_below(space, addr);
    int grown, there;

    if (image)
        return image;
    grown = is_one_vma(p, space, below ? below - WR_PAGE_BYTES : addr, addr + WR_PAGE_BYTES);
    there = grown == 0 ? is_one_vma(p, space, addr, addr + WR_PAGE_BYTES) : grown;
    if (there <= 0)
        return 0;
    if (!grown || !below)
        pager_lost(WR_LOST_VIEW, -EFAULT);
    space_grow(space, addr);
    return space_shown(space, addr);
}

static void answer(struct pager *p, uint64_t image)
{
    struct shared *shared = &p->shared;
    uint64_t index = shared_record_at(shared, image);
    uint16_t page;

    trace_phase(p, WR_PHASE_LOOKUP, trace_now());
    if (index < shared->records_count) {
        page = shared_pages_within(&shared->records[index], image, image + WR_PAGE_BYTES);
        if (need_of(shared, index) & page) {
            bring(p, index, &p->counters->fault_pages);
            return;
        }
    }
    zero(p, image);
}

void shared_fault(struct pager *p, const struct fault *fault)
{
    struct space *space = fault->shared;
    uint64_t image;

    if (!fault->addr || space->uffd < 0)
        return;
    p->counters->faults++;
    trace_begin(p, fault);
    image = find_shown(p, space, fault->addr);
    if (image)
        answer(p, image);
    install_wake(space, fault->addr, WR_PAGE_BYTES);
    trace_end(p, WR_PATH_NOTHING);
}

static void unmap(struct window *window)
{
    raw2(SYS_munmap, window->start, window->end - window->start);
    window->held = 0;
}

void shared_drop_unseen(struct pager *p)
{
    struct shared *shared = &p->shared;

    for (uint32_t w = 0; w < shared->windows_count; w++) {
        struct window *window = &shared->windows[w];
        int seen = 0;

        for (uint32_t s = 0; s < shared->spaces_count && !seen; s++)
            seen = shared->spaces[s].uffd >= 0 && space_shows(&shared->spaces[s], window->start, window->end);
        if (window->held && !seen)
            unmap(window);
    }
}

void shared_finish(struct pager *p)
{
    struct shared *shared = &p->shared;

    if (!shared->common)
        return;
    for (uint32_t w = 0; w < shared->windows_count; w++)
        if (shared->windows[w].held)
            unmap(&shared->windows[w]);
    raw1(SYS_close, WR_PAGER_SHARED);
    raw1(SYS_close, WR_PAGER_WINDOW);
}
