/* SPDX-License-Identifier: Apache-2.0
 *
 * Storms: a program that faults again as soon as it has been answered does nothing but wait. Then one thread that decodes
 * and installs leaves a CPU unused, so a second one fills meanwhile, from the other end of the image: the windows of 2 MiB
 * from the last to the first, the records of each in order. It is scheduled like a thread of the program, since the pager
 * waits for it now and then; so it works only while the last fault is a moment ago.
 *
 * What the two threads share, and by which rule:
 *
 *   the userfaultfd of the process's own space is read, and what was read applied (views, late moves, children), only under
 *   `lock`. The second thread holds it from looking at what is needed to having settled what it has copied. So as long as it
 *   may copy, no event is read, and the kernel refuses its copies while one waits (mmap_changing).
 *   space->need, space->missing   bits are only ever cleared, one atomic operation each, by either: whoever clears a bit counts
 *   it. Both may copy one page: EEXIST, and the page is there before its bit goes.
 *   level, stalls, last, on   written by the pager
 *   pages             what the second thread has installed since the pager last counted it
 *   all else in struct storm is the second thread's, all else in struct pager the pager's
 */
#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "mutex.h"
#include "pager.h"

enum {
    LEVEL_STORM =
        16, /* so many faults more came a moment after the last answer than LEVEL_LATE times those that did not */
    LEVEL_MAX = 24,
    LEVEL_LATE = 2,
    STALLS_MAX = 16,
    /* Of the time stamp counter, which runs at 1 to 5 GHz. */
    MOMENT_CYCLES = 500000, /* 100 to 500 us */
    SPIN_CYCLES =
        100000, /* as long as a chunk's COPY may take: who holds the lock for longer has been preempted */
    STALL_CYCLES = 4000000, /* 0.8 to 4 ms: by who wants the CPU for himself */
};

static int within_moment(uint64_t since, uint64_t now)
{
    return (int64_t)(now - since) < MOMENT_CYCLES;
}

/* ---- the pager ---- */

/* Where others want all CPUs it is not worth it: each time it takes twice as many faults until the next storm. */
static void note_stall(struct storm *storm)
{
    storm->stalls += storm->stalls < STALLS_MAX;
    storm->level = LEVEL_STORM - (LEVEL_STORM << storm->stalls);
}

void storm_lock(struct pager *p)
{
    uint32_t *word = &p->storm.lock;
    uint64_t began;

    /* A fail-stop may begin under it, or while it is waited for: the target is dead by then. */
    if (p->storm_locks++ || mutex_try(word))
        return;
    began = trace_now();
    while (trace_now() - began < SPIN_CYCLES) {
        __builtin_ia32_pause();
        if (mutex_try(word))
            return;
    }
    while (mutex_contend(word))
        pager_await(p, word, 2);
    if (trace_now() - began > STALL_CYCLES)
        note_stall(&p->storm);
}

void storm_unlock(struct pager *p)
{
    if (--p->storm_locks == 0)
        mutex_give(&p->storm.lock);
}

void storm_begin(struct pager *p, const struct fault *fault)
{
    struct storm *storm = &p->storm;

    if (within_moment(storm->last, fault->tsc))
        storm->level += storm->level < LEVEL_MAX;
    else if (storm->level > 0)
        storm->level -= storm->level < LEVEL_LATE ? storm->level : LEVEL_LATE;
    __atomic_store_n(&storm->last, trace_now(), __ATOMIC_SEQ_CST);
}

/* A chunk that is decoded costs half of what its fault would, so one goes into place after each fault. */
void storm_end(struct pager *p)
{
    struct storm *storm = &p->storm;
    int on = storm->level >= LEVEL_STORM && p->eager_done && p->ctl->fill == WR_FILL_BACKGROUND &&
             pager_may_fill_own(p);

    __atomic_store_n(&storm->last, trace_now(), __ATOMIC_SEQ_CST);
    __atomic_store_n(&storm->on, (uint32_t)on, __ATOMIC_SEQ_CST);
    if (on)
        batch_advance(p, &p->counters->fill_pages);
    __atomic_store_n(&storm->last, trace_now(), __ATOMIC_SEQ_CST);
    if (on && __atomic_load_n(&storm->worker.asleep, __ATOMIC_SEQ_CST))
        worker_ring(&storm->worker);
}

int storm_now(const struct pager *p)
{
    const struct storm *storm = &p->storm;

    return __atomic_load_n(&storm->on, __ATOMIC_SEQ_CST) &&
           within_moment(__atomic_load_n(&storm->last, __ATOMIC_SEQ_CST), trace_now());
}

void storm_account(struct pager *p)
{
    uint64_t pages;

    if (!__atomic_load_n(&p->storm.pages, __ATOMIC_RELAXED))
        return;
    pages = __atomic_exchange_n(&p->storm.pages, 0, __ATOMIC_RELAXED);
    p->counters->copied_pages += pages;
    p->counters->fill_pages += pages;
}

/* ---- the second thread ---- */

static void lock(struct pager *p)
{
    uint32_t *word = &p->storm.lock;

    if (mutex_try(word))
        return;
    while (mutex_contend(word))
        raw4(SYS_futex, word, FUTEX_WAIT, 2, 0);
}

/* The next window below; 0 when the pager's own fill has come so far. */
static int next_window(struct pager *p)
{
    struct storm *storm = &p->storm;
    uint64_t end = storm->begun ? storm->first : p->records_count, first = end;
    uint64_t met = __atomic_load_n(&p->batch_next, __ATOMIC_SEQ_CST);

    if (end <= met)
        return 0;
    while (first > met && batch_window_of(p, first - 1) == batch_window_of(p, end - 1))
        first--;
    storm->begun = 1;
    storm->first = storm->next = first;
    storm->end = end;
    return 1;
}

static int next_record(struct pager *p, uint64_t *record)
{
    struct storm *storm = &p->storm;

    do {
        while (storm->next < storm->end) {
            *record = storm->next++;
            if (space_needed(&p->spaces[0], *record))
                return 1;
        }
    } while (next_window(p));
    return 0;
}

/* The lock is held. Not while a child may need the same pages, or moves that were read have not taken effect. */
static int may_install(const struct pager *p)
{
    const struct space *own = &p->spaces[0];

    return p->spaces_used == 1 && !own->late.bytes && !own->left_count;
}

/* Pages done; -errno. */
static long put_run(struct space *space, const struct run *run, const uint8_t *from)
{
    long done = install_copy(space, run->at, from, (uint64_t)run->count * WR_PAGE_BYTES);

    if (done == -EEXIST && run->count > 1)
        done = install_copy(space, run->at, from, WR_PAGE_BYTES);
    return done < 0 ? done : done / WR_PAGE_BYTES;
}

/* Whatever else the kernel refuses is left to the pager, which knows what to do. */
static void put_chunk(struct pager *p, const struct decoded *decoded)
{
    struct space *own = &p->spaces[0];
    struct run run;

    lock(p);
    while (may_install(p) && space_next_run(own, decoded->record, 0, &run)) {
        long done = put_run(own, &run, chunk_page(p, decoded, run.first));

        if (done < 0 && done != -EEXIST)
            break;
        space_settle(own, decoded->record, run.first, done > 0 ? (uint32_t)done : 1);
        if (done > 0)
            __atomic_fetch_add(&p->storm.pages, (uint64_t)done, __ATOMIC_RELAXED);
    }
    mutex_give(&p->storm.lock);
}

static int work(struct pager *p)
{
    struct decoder *decoder = &p->storm.worker.decoder;
    struct decoded decoded = {.pages = decoder->packed};

    if (!storm_now(p) || !next_record(p, &decoded.record))
        return 0;
    if (decoder_run(p, decoder, decoded.record, decoded.pages) == 0)
        put_chunk(p, &decoded);
    return 1;
}

_Noreturn void storm_main(const struct wr_runtime *rt)
{
    struct pager *p = (struct pager *)rt->pool;

    worker_run(p, &p->storm.worker, work);
}
