/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages into a space. What each errno of the kernel (fs/userfaultfd.c, mm/userfaultfd.c) means here:
 *
 *   EAGAIN  the mm is changing: an event waits to be read (mmap_changing), or a part was done
 *   EEXIST  the page is there: somebody else brought it, ours is not needed
 *   ENOENT  no one VMA of this userfaultfd covers the range: several VMAs, or dropped (MADV_DONTFORK in a child)
 *   EINVAL  MOVE: the target is not like staging (protection, mlock); COPY: several VMAs
 *   EBUSY   MOVE: the source page is pinned or shared
 *   ESRCH   the mm has no user left (ENOSPC before 4.13)
 *   others  (ENOMEM, EFAULT): no page can be brought; the target must not go on without
 */
#include <errno.h>
#include <sys/syscall.h>

#include "pager.h"
#include "uffd.h"

void install_wake(const struct space *space, uint64_t addr, uint64_t bytes)
{
    struct uffdio_range range = {.start = addr & ~(uint64_t)(WR_PAGE_BYTES - 1), .len = bytes};

    raw3(SYS_ioctl, space->uffd, UFFDIO_WAKE, &range);
}

/* Both give bytes done, or -errno if none. A part done is reported as EAGAIN with a count. */
static long move(const struct space *space, uint64_t to, const uint8_t *from, uint64_t bytes)
{
    struct uffdio_move arg = {.dst = to, .src = (uint64_t)from, .len = bytes};
    long result = raw3(SYS_ioctl, space->uffd, UFFDIO_MOVE, &arg);

    return result < 0 && arg.move <= 0 ? result : arg.move;
}

long install_copy(const struct space *space, uint64_t to, const uint8_t *from, uint64_t bytes)
{
    struct uffdio_copy arg = {.dst = to, .src = (uint64_t)from, .len = bytes};
    long result = raw3(SYS_ioctl, space->uffd, UFFDIO_COPY, &arg);

    return result < 0 && arg.copy <= 0 ? result : arg.copy;
}

static long put(struct pager *p, const struct space *space, const struct decoded *decoded,
                const struct run *run, uint32_t pages)
{
    const uint8_t *from = chunk_page(p, decoded, run->first);
    uint64_t bytes = (uint64_t)pages * WR_PAGE_BYTES;
    long done = -EINVAL;

    if (decoded->staged && space == &p->spaces[0] && run->flags & WR_SEGMENT_MOVE) {
        uint64_t began = trace_now();

        done = move(space, run->at, from, bytes);
        if (done > 0) {
            p->counters->moved_pages += (uint64_t)done / WR_PAGE_BYTES;
            cost_note(&p->costs.move, trace_now() - began, (uint64_t)done / WR_PAGE_BYTES);
        }
    }
    /* Everything but a changing mm and a page already there may succeed by COPY: another protection, a busy source. */
    if (done < 0 && done != -EAGAIN && done != -EEXIST && done != -ESRCH) {
        uint64_t began = trace_now();

        done = install_copy(space, run->at, from, bytes);
        if (done > 0) {
            p->counters->copied_pages += (uint64_t)done / WR_PAGE_BYTES;
            cost_note(&p->costs.copy, trace_now() - began, (uint64_t)done / WR_PAGE_BYTES);
        }
    }
    return done;
}

/* Bytes done; 0: one page was settled without us; -EAGAIN, -ESRCH. */
static long put_run(struct pager *p, struct space *space, const struct decoded *decoded,
                    const struct run *run)
{
    long done = put(p, space, decoded, run, run->count);

    if (done < 0 && done != -EAGAIN && done != -ESRCH && run->count > 1)
        done = put(p, space, decoded, run, 1);
    switch (done) {
    case -EEXIST:
    case -ENOENT:
        p->counters->dropped_pages++;
        install_wake(space, run->at, WR_PAGE_BYTES);
        return 0;
    case -ENOSPC:
        return -ESRCH;
    case -EAGAIN:
    case -ESRCH:
        return done;
    }
    if (done < 0)
        pager_lost(WR_LOST_INSTALL, done);
    return done;
}

/* The page that a thread waits for, by itself and before the others of its chunk: the thread goes on while they are brought. */
static long put_urgent(struct pager *p, struct space *space, const struct decoded *decoded)
{
    struct decoded copied = *decoded;
    struct run run = {.count = 0};
    uint32_t from = 0, skipped;
    long done;

    copied.staged = 0;
    do {
        if (!space_next_run(space, decoded->record, from, &run))
            return 0;
        from = run.first + run.count;
    } while (p->urgent_addr < run.at || p->urgent_addr >= run.at + (uint64_t)run.count * WR_PAGE_BYTES);
    skipped = (uint32_t)((p->urgent_addr - run.at) / WR_PAGE_BYTES);
    run.first += skipped;
    run.at += (uint64_t)skipped * WR_PAGE_BYTES;
    run.count = 1;
    done = put_run(p, space, &copied, &run);
    if (done >= 0)
        space_settle(space, decoded->record, run.first, 1);
    return done;
}

int install_chunk(struct pager *p, struct space *space, const struct decoded *decoded, uint64_t *installed)
{
    struct run run;

    if (space == p->urgent) {
        long done = put_urgent(p, space, decoded);

        if (done < 0)
            return (int)done;
        *installed += (uint64_t)done / WR_PAGE_BYTES;
    }
    while (space_next_run(space, decoded->record, 0, &run)) {
        long done = put_run(p, space, decoded, &run);

        if (done < 0)
            return (int)done;
        space_settle(space, decoded->record, run.first, done ? (uint32_t)(done / WR_PAGE_BYTES) : 1);
        *installed += (uint64_t)done / WR_PAGE_BYTES;
    }
    return 0;
}

static long poison(const struct space *space, uint64_t at, uint64_t bytes)
{
    struct uffdio_poison arg = {.range = {.start = at, .len = bytes}};
    long result = raw3(SYS_ioctl, space->uffd, UFFDIO_POISON, &arg);

    return result < 0 && arg.updated <= 0 ? result : arg.updated;
}

long install_huge(struct pager *p, uint64_t to, const uint8_t *from)
{
    return move(&p->spaces[0], to, from, WR_HUGE_BYTES);
}

int install_poison(struct pager *p, struct space *space, uint64_t index)
{
    struct run run;

    while (space_next_run(space, index, 0, &run)) {
        long done = poison(space, run.at, (uint64_t)run.count * WR_PAGE_BYTES);

        if (done < 0 && done != -EAGAIN && done != -ESRCH && run.count > 1)
            done = poison(space, run.at, WR_PAGE_BYTES);
        if (done == -EAGAIN || done == -ESRCH)
            return (int)done;
        if (done < 0 && done != -EEXIST && done != -ENOENT)
            pager_lost(WR_LOST_INSTALL, done);
        p->counters->poisoned_pages += done > 0 ? (uint64_t)done / WR_PAGE_BYTES : 0;
        install_wake(space, run.at, done > 0 ? (uint64_t)done : WR_PAGE_BYTES);
        space_settle(space, index, run.first, done > 0 ? (uint32_t)(done / WR_PAGE_BYTES) : 1);
    }
    return 0;
}

int install_zero(struct pager *p, struct space *space, uint64_t addr)
{
    struct uffdio_zeropage arg = {.range = {.start = addr, .len = WR_PAGE_BYTES}};
    long result = raw3(SYS_ioctl, space->uffd, UFFDIO_ZEROPAGE, &arg);

    switch (result) {
    case 0:
        p->counters->zero_pages++;
        return 0;
    case -EAGAIN:
    case -ESRCH:
        return (int)result;
    case -EEXIST:
    case -ENOENT:
        install_wake(space, addr, WR_PAGE_BYTES);
        return 0;
    }
    pager_lost(WR_LOST_INSTALL, result);
}

/* UFFDIO_CONTINUE never touches private memory, but is refused with EAGAIN while mappings change, and with ESRCH when
 * nobody uses the mm any more (userfaultfd_continue, fs/userfaultfd.c). The address is in the region, which no child
 * has. */
static long ask(const struct pager *p, const struct space *space)
{
    struct uffdio_continue arg = {.range = {.start = p->rt->pool, .len = WR_PAGE_BYTES}};

    return raw3(SYS_ioctl, space->uffd, UFFDIO_CONTINUE, &arg);
}

int install_must_wait(const struct pager *p, const struct space *space)
{
    return ask(p, space) == -EAGAIN;
}

int install_gone(const struct pager *p, const struct space *space)
{
    long result = ask(p, space);

    return result == -ESRCH || result == -ENOSPC;
}
