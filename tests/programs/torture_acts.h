/* SPDX-License-Identifier: Apache-2.0
 *
 * torture_acts.h: what a thread does to its areas; each act keeps the model in step.
 */
#ifndef TORTURE_ACTS_H
#define TORTURE_ACTS_H
#include "torture.h"
#include <linux/futex.h>
#include <linux/mman.h>
#include <signal.h>
#include <sys/uio.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { RUN_MAX = 24, PAGES_MIN = 64, EXCHANGED = 8 };

struct run {
    struct area *area;
    size_t first, count;
    char *addr;
    size_t bytes;
};

static struct run draw_run(struct worker *w, size_t most)
{
    struct area *area = &w->areas[draw(w, AREAS)];
    size_t count = 1 + draw(w, most < area->pages ? most : area->pages);
    size_t first = draw(w, area->pages - count + 1);
    return (struct run){area, first, count, page_at(area, first), count * PAGE};
}

static void *reserve(size_t bytes)
{
    void *addr = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

static void act_check(struct worker *w)
{
    struct run run = draw_run(w, RUN_MAX);
    area_check(w, run.area, run.first, run.count, "read");
}

static void act_write(struct worker *w)
{
    struct run run = draw_run(w, RUN_MAX);
    for (size_t i = run.first; i < run.first + run.count; i++)
        (draw(w, 2) ? area_write : area_patch)(w, run.area, i);
}

/* Onto an address of the kernel's choice: often one that another thread has just left. */
static void act_move(struct worker *w)
{
    struct area *area = &w->areas[draw(w, AREAS)];
    size_t bytes = area->pages * PAGE;
    if (!area->whole)
        return;
    char *old = area->addr;
    int keep = draw(w, 2) != 0;
    /* Linux takes the fifth argument of MREMAP_DONTUNMAP as a hint: it has to be there. */
    char *addr = keep ? mremap(old, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL)
                      : mremap(old, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, reserve(bytes));
    NEED(addr != MAP_FAILED);
    if (addr == MAP_FAILED)
        return;
    area->addr = addr;
    if (!keep)
        return;
    struct page nothing = {.prot = PROT_READ};
    for (size_t i = 0; i < area->pages; i += 1 + draw(w, 32))
        page_check(w, old + i * PAGE, &nothing, "left behind by MREMAP_DONTUNMAP");
    NEED(munmap(old, bytes) == 0);
}

static void act_resize(struct worker *w)
{
    struct area *area = &w->areas[draw(w, AREAS)];
    size_t pages =
        area->pages < PAGES_MIN || draw(w, 2) ? area->pages + draw(w, 32) : area->pages - draw(w, 32);
    if (!area->whole || pages > AREA_PAGES)
        return;
    char *addr = mremap(area->addr, area->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
    NEED(addr != MAP_FAILED);
    if (addr == MAP_FAILED)
        return;
    area->addr = addr;
    for (size_t i = area->pages; i < pages; i++)
        area->page[i] = (struct page){.prot = PROT_READ | PROT_WRITE, .policy = area->page[0].policy};
    area->pages = pages;
}

/* Page by page out of its place, into another order, and back. What they leave behind keeps other threads from
 * mapping something there meanwhile. */
static void act_exchange(struct worker *w)
{
    struct run run = draw_run(w, EXCHANGED);
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    char *aside = reserve(run.bytes);
    for (size_t i = 0; i < run.count; i++) {
        char *to = aside + (run.count - 1 - i) * PAGE;
        NEED(mremap(run.addr + i * PAGE, PAGE, PAGE, flags, to) == to);
        if (draw(w, 2))
            page_check(w, to, &run.area->page[run.first + i], "moved aside");
    }
    for (size_t i = run.count; i-- > 0;) {
        char *from = aside + (run.count - 1 - i) * PAGE, *to = run.addr + i * PAGE;
        NEED(mremap(from, PAGE, PAGE, flags, to) == to);
    }
    run.area->whole = 0;
    munmap(aside, run.bytes);
    area_check(w, run.area, run.first, run.count, "moved back");
}

static void act_trim(struct worker *w)
{
    struct area *area = &w->areas[draw(w, AREAS)];
    size_t count = 1 + draw(w, 8);
    if (area->pages < PAGES_MIN)
        return;
    area->pages -= count;
    if (draw(w, 2)) {
        NEED(munmap(page_at(area, area->pages), count * PAGE) == 0);
        return;
    }
    NEED(munmap(area->addr, count * PAGE) == 0);
    area->addr += count * PAGE;
    memmove(area->page, area->page + count, area->pages * sizeof area->page[0]);
}

/* New memory where there was old. */
static void act_replace(struct worker *w)
{
    struct run run = draw_run(w, EXCHANGED);
    int prot = PROT_READ | PROT_WRITE;
    NEED(mmap(run.addr, run.bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == run.addr);
    for (size_t i = run.first; i < run.first + run.count; i++)
        run.area->page[i] = (struct page){.prot = (uint8_t)prot};
    run.area->whole = 0;
    area_check(w, run.area, run.first, run.count, "mapped anew");
}

/* A locked part refuses what comes before it does not: after a failure either content is right. */
static void act_discard(struct worker *w)
{
    struct run run = draw_run(w, RUN_MAX);
    int lazily = draw(w, 3) == 0;
    int failed = madvise(run.addr, run.bytes, lazily ? MADV_FREE : MADV_DONTNEED) != 0;
    NEED(!failed || errno == EINVAL);
    if (!failed && !lazily)
        area_zeroed(run.area, run.first, run.count);
    else
        for (size_t i = run.first; i < run.first + run.count; i++)
            run.area->page[i].loose = 1;
    if (draw(w, 2))
        area_check(w, run.area, run.first, run.count, "discarded");
}

/* Advice that changes no content. MADV_REMOVE is for shared memory: here it has to fail. */
static void act_advise(struct worker *w)
{
    static const int advice[] = {MADV_HUGEPAGE,      MADV_NOHUGEPAGE,     MADV_WILLNEED,
                                 MADV_COLD,          MADV_PAGEOUT,        MADV_REMOVE,
                                 MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE};
    struct run run = draw_run(w, RUN_MAX);
    int chosen = advice[draw(w, sizeof advice / sizeof advice[0])];
    int result = madvise(run.addr, run.bytes, chosen);
    NEED(chosen != MADV_REMOVE || (result != 0 && errno == EINVAL));
    if (chosen == MADV_HUGEPAGE || chosen == MADV_NOHUGEPAGE)
        run.area->whole = 0;
    area_check(w, run.area, run.first, run.count, "advised");
}

/* The kernel sends no event for MADV_WIPEONFORK and MADV_KEEPONFORK, so a pager knows only what held at the checkpoint:
 * such a change is safe once the pages are there. docs/pager.md names this as a limit. */
static void act_fork_policy(struct worker *w)
{
    static const struct {
        int on, off;
        uint8_t flag;
    } policies[] = {{MADV_WIPEONFORK, MADV_KEEPONFORK, WIPED}, {MADV_DONTFORK, MADV_DOFORK, KEPT}};
    struct area *area = &w->areas[draw(w, AREAS)];
    size_t which = draw(w, 2);
    int on = draw(w, 2) != 0;
    if (policies[which].flag == WIPED)
        area_check(w, area, 0, area->pages, "before its fork policy changes");
    NEED(madvise(area->addr, area->pages * PAGE, on ? policies[which].on : policies[which].off) == 0);
    for (size_t i = 0; i < area->pages; i++)
        area->page[i].policy =
            (uint8_t)((area->page[i].policy & ~policies[which].flag) | (on ? policies[which].flag : 0));
}

static void act_protect(struct worker *w)
{
    static const uint8_t prots[] = {PROT_NONE,
                                    PROT_READ,
                                    PROT_READ | PROT_EXEC,
                                    PROT_READ | PROT_WRITE,
                                    PROT_READ | PROT_WRITE,
                                    PROT_READ | PROT_WRITE | PROT_EXEC};
    struct run run = draw_run(w, RUN_MAX);
    uint8_t prot = prots[draw(w, sizeof prots)];
    NEED(mprotect(run.addr, run.bytes, prot) == 0);
    for (size_t i = run.first; i < run.first + run.count; i++)
        run.area->page[i].prot = prot;
    run.area->whole = 0;
    if (draw(w, 2))
        area_check(w, run.area, run.first, run.count, "protected");
}

static void act_lock(struct worker *w)
{
    struct run run = draw_run(w, RUN_MAX);
    int result;
    switch (draw(w, 4)) {
    case 0:
        result = mlock(run.addr, run.bytes);
        break;
    case 1:
        result = mlock2(run.addr, run.bytes, MLOCK_ONFAULT);
        break;
    default:
        result = munlock(run.addr, run.bytes);
    }
    /* What nobody may read cannot be brought in by mlock (mlock(2): ENOMEM). */
    NEED(result == 0 || errno == ENOMEM || errno == EAGAIN);
    run.area->whole = 0;
    area_check(w, run.area, run.first, run.count, "locked");
}

/* Out of a page by write(2), and into another by read(2): the kernel meets what is missing. */
static void act_pipe(struct worker *w)
{
    struct run from = draw_run(w, 1), to = draw_run(w, 1);
    struct page source = from.area->page[from.first], *target = &to.area->page[to.first];
    if (!(source.prot & PROT_READ) || !(target->prot & PROT_WRITE) || source.loose)
        return;
    NEED(write(w->pipe[1], from.addr, PAGE) == (ssize_t)PAGE);
    NEED(read(w->pipe[0], to.addr, PAGE) == (ssize_t)PAGE);
    page_renew(target, source.tag);
    target->patched = source.patched;
    page_check(w, to.addr, target, "read from a pipe");
}

/* Through a file, several pages at once, with one call each way. */
static void act_file(struct worker *w)
{
    struct run run = draw_run(w, EXCHANGED);
    for (size_t i = run.first; i < run.first + run.count; i++)
        if (!(run.area->page[i].prot & PROT_WRITE) || run.area->page[i].loose)
            return;
    struct iovec vector = {run.addr, run.bytes};
    NEED(pwritev(w->file, &vector, 1, 0) == (ssize_t)run.bytes);
    for (size_t i = run.first; i < run.first + run.count; i++)
        area_patch(w, run.area, i);
    NEED(preadv(w->file, &vector, 1, 0) == (ssize_t)run.bytes);
    for (size_t i = 0; i < run.count; i++) {
        struct page page = run.area->page[run.first + i];
        uint64_t words[WORDS];
        NEED(pread(w->file, words, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE);
        if (page.patched && words[page.patched - 1] != page_word(&page, page.patched - 1u))
            page.patched = 0;
        page_check(w, page_at(run.area, run.first + i), &page, "read from a file");
        run.area->page[run.first + i] = page;
    }
}

static void act_futex(struct worker *w)
{
    static const struct timespec moment = {.tv_nsec = 1};
    struct run run = draw_run(w, 1);
    const struct page *page = &run.area->page[run.first];
    size_t word = draw(w, WORDS);
    uint32_t *at = (uint32_t *)run.addr + 2 * word, value = (uint32_t)page_word(page, word);
    if (!(page->prot & PROT_WRITE) || page->loose)
        return;
    NEED(syscall(SYS_futex, at, FUTEX_WAIT, value, &moment) == -1 && errno == ETIMEDOUT);
    NEED(syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, ~value, &moment) == -1 && errno == EAGAIN);
    NEED(syscall(SYS_futex, at, FUTEX_WAKE, 1) == 0);
}

static __thread volatile sig_atomic_t signals_seen;

static void on_signal(int signal)
{
    volatile char deep[3 * PAGE];
    for (size_t i = 0; i < sizeof deep; i += 256)
        deep[i] = (char)i;
    signals_seen += signal == SIGUSR1 && deep[256] == 0;
}

/* The frame of a signal is written by the kernel onto a stack whose pages are missing. */
static void act_signal(struct worker *w)
{
    int seen = signals_seen;
    if (draw(w, 4) == 0)
        NEED(madvise(w->altstack, ALTSTACK_PAGES * PAGE, MADV_DONTNEED) == 0);
    NEED(raise(SIGUSR1) == 0);
    NEED(signals_seen == seen + 1);
}

#endif
