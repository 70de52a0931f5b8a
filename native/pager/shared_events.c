/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel tells of shared memory that comes lazily. The REMOVE event leaves open whether pages were only dropped from
 * a page table (MADV_DONTNEED), so that they must come back, or removed from the file (MADV_REMOVE), so that zeroes must. It
 * comes before the deed, and its thread sleeps in madvise(2) until the event is read: so whenever an event may be waiting
 * (every ioctl says EAGAIN then) the launcher is asked first who is in madvise(2) now. Of messages that wait, faults are read
 * first, then the oldest event (userfaultfd_ctx_read): that one was seen. Should an event be read all the same that nobody
 * has seen, about memory that is missing, then the program is ended: it must not read the wrong bytes.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"
#include "uffd.h"

enum { ADVICE_DONTNEED = 4, ADVICE_REMOVE = 9, ADVICE_DONTNEED_LOCKED = 24, POISON_TRIES = 100000 };

static int readable(const struct space *space)
{
    struct pollfd fd = {.fd = space->uffd, .events = POLLIN};
    struct {
        long seconds, nanoseconds;
    } at_once = {0, 0};

    return raw6(SYS_ppoll, (long)&fd, 1, (long)&at_once, 0, 0, 0) > 0 && fd.revents & POLLIN;
}

/* Whether a thread is at an event (userfaultfd_ctx.mmap_changing): looked at before the arguments, which are impossible. */
static int changing(const struct space *space)
{
    struct uffdio_zeropage arg = {.range = {.start = 1, .len = 0}};

    return raw3(SYS_ioctl, space->uffd, UFFDIO_ZEROPAGE, &arg) == -EAGAIN;
}

static const struct wr_calls *ask(struct pager *p)
{
    struct wr_calls *calls = &p->ctl->calls;

    pager_ask(p, WR_MESSAGE_CALLS, 0, &calls->ready);
    return calls;
}

/* Whether [start, end) is being removed, by what those say who may have sent the event. Two that do both at once to the
 * same pages of one process: they are gone in the end, whichever comes first. */
static int removes(const struct wr_calls *calls, uint64_t start, uint64_t end)
{
    int64_t remover = 0, dropper = 0;

    for (uint32_t i = 0; calls && calls->count <= WR_CALLS && i < calls->count; i++) {
        const struct wr_call *call = &calls->list[i];

        if (call->start > start || call->end < end)
            continue;
        if (call->advice == ADVICE_REMOVE)
            remover = call->pid;
        else if (call->advice == ADVICE_DONTNEED || call->advice == ADVICE_DONTNEED_LOCKED)
            dropper = call->pid;
    }
    if ((!remover && !dropper) || (remover && dropper && remover != dropper))
        pager_lost(WR_LOST_ADVICE, -EINVAL);
    return remover != 0;
}

/* The lock is held, and was when the event was read: from then on the thread may go on. */
static void discard(struct pager *p, struct space *space, const struct wr_calls *calls, uint64_t start,
                    uint64_t end)
{
    struct shared *shared = &p->shared;
    uint64_t image = space_shown(space, start), image_end = image + (end - start);
    int removed = -1;

    for (uint64_t i = shared_record_at(shared, image); image && !p->failing && i < shared->records_count;
         i++) {
        uint16_t gone;

        if (shared->records[i].addr >= image_end)
            return;
        gone = shared->need[i] & shared_pages_within(&shared->records[i], image, image_end);
        if (!gone)
            continue;
        if (removed < 0)
            removed = removes(calls, start, end);
        if (!removed)
            return;
        __atomic_store_n(&shared->need[i], (uint16_t)(shared->need[i] & ~gone), __ATOMIC_RELEASE);
        p->counters->dropped_pages += (uint64_t)__builtin_popcount(gone);
    }
}

static void forked(struct pager *p, const struct space *parent, int uffd)
{
    struct shared *shared = &p->shared;
    struct space *child = NULL;

    if (shared_loaded(shared)) {
        raw1(SYS_close, uffd);
        return;
    }
    for (uint32_t s = 1; s < shared->spaces_count && !child; s++)
        child = shared->spaces[s].uffd < 0 ? &shared->spaces[s] : NULL;
    if (!child)
        pager_lost(WR_LOST_POOL, -EAGAIN);
    pager_adopt(p, child, uffd);
    space_fork(child, parent);
    shared->spaces_used++;
}

static void forget_faults(struct pager *p, const struct space *space, uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < p->faults_count; i++) {
        struct fault *fault = &p->faults[(p->faults_first + i) % FAULTS_MAX];

        if (fault->shared == space && fault->addr >= start && fault->addr < end)
            fault->addr = 0;
    }
}

void shared_release(struct pager *p, struct space *space)
{
    forget_faults(p, space, 0, UINT64_MAX);
    raw1(SYS_close, space->uffd);
    space->uffd = -1;
    space->views_count = 0;
    p->shared.spaces_used--;
    pager_say(WR_MESSAGE_CHILD_GONE, space->number, 0, 0, -1);
    shared_drop_unseen(p);
}

void shared_reap(struct pager *p)
{
    for (uint32_t s = 1; s < p->shared.spaces_count; s++)
        if (p->shared.spaces[s].uffd >= 0 && install_gone(p, &p->shared.spaces[s]))
            shared_release(p, &p->shared.spaces[s]);
}

static void unmapped(struct pager *p, struct space *space, uint64_t start, uint64_t end)
{
    forget_faults(p, space, start, end);
    space_unmap(space, start, end);
    install_wake(space, start, end - start);
    shared_drop_unseen(p);
}

static void moved(struct space *space, uint64_t from, uint64_t to, uint64_t bytes)
{
    if (space_duplicate(space, from, to, bytes) != 0)
        pager_lost(WR_LOST_POOL, -ENOSPC);
    if (bytes)
        install_wake(space, from, bytes);
}

static void apply(struct pager *p, struct space *space, const struct uffd_msg *message)
{
    const struct fault fault = {
        .addr = message->arg.pagefault.address, .tid = message->arg.pagefault.feat.ptid, .shared = space};

    if (message->event == UFFD_EVENT_PAGEFAULT) {
        events_queue(p, space, &fault);
        return;
    }
    p->counters->events++;
    if (!space_has_room(space))
        pager_lost(WR_LOST_POOL, -ENOSPC);
    if (message->event == UFFD_EVENT_FORK)
        forked(p, space, (int)message->arg.fork.ufd);
    if (message->event == UFFD_EVENT_REMOVE)
        install_wake(space, message->arg.remove.start, message->arg.remove.end - message->arg.remove.start);
    if (message->event == UFFD_EVENT_UNMAP)
        unmapped(p, space, message->arg.remove.start, message->arg.remove.end);
    if (message->event == UFFD_EVENT_REMAP)
        moved(space, message->arg.remap.from, message->arg.remap.to, message->arg.remap.len);
}

/* One message only: what comes after it may be an event that was not there when the launcher looked. */
void shared_read(struct pager *p, struct space *space)
{
    const struct wr_calls *calls = NULL;
    struct uffd_msg message;
    long n;

    if (!readable(space))
        return;
    shared_make_room(p);
    if (!p->failing && changing(space))
        calls = ask(p);
    shared_lock(p);
    n = raw3(SYS_read, space->uffd, &message, sizeof(message));
    if (n == (long)sizeof(message) && message.event == UFFD_EVENT_REMOVE)
        discard(p, space, calls, message.arg.remove.start, message.arg.remove.end);
    shared_unlock(p);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n != (long)sizeof(message))
        pager_lost(WR_LOST_UFFD_READ, n);
    apply(p, space, &message);
}

static void read_all(struct pager *p)
{
    for (uint32_t s = 0; s < p->spaces_count; s++)
        if (p->spaces[s].uffd >= 0)
            events_read(p, &p->spaces[s]);
    for (uint32_t s = 0; s < p->shared.spaces_count; s++)
        if (p->shared.spaces[s].uffd >= 0)
            shared_read(p, &p->shared.spaces[s]);
}

static void poison_page(struct pager *p, struct space *space, uint64_t at)
{
    struct uffdio_poison arg = {.range = {.start = at, .len = WR_PAGE_BYTES}};

    for (int i = 0; i < POISON_TRIES && raw3(SYS_ioctl, space->uffd, UFFDIO_POISON, &arg) == -EAGAIN; i++)
        read_all(p);
    install_wake(space, at, WR_PAGE_BYTES);
}

static void poison_view(struct pager *p, struct space *space, struct view view)
{
    struct shared *shared = &p->shared;

    for (uint64_t i = shared_record_at(shared, view.image); i < shared->records_count; i++) {
        uint64_t addr = shared->records[i].addr;

        for (uint32_t page = 0; page < WR_CHUNK_PAGES; page++, addr += WR_PAGE_BYTES)
            if (shared->need[i] >> page & 1 && addr >= view.image &&
                addr < view.image + (view.end - view.start))
                poison_page(p, space, view.start + (addr - view.image));
        if (addr >= view.image + (view.end - view.start))
            return;
    }
}

void shared_poison(struct pager *p)
{
    for (uint32_t s = 0; s < p->shared.spaces_count; s++) {
        struct space *space = &p->shared.spaces[s];

        for (uint32_t i = 0; space->uffd >= 0 && i < space->views_count; i++)
            poison_view(p, space, space->views[i]);
    }
}
