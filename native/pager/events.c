/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel tells. A thread that forks, unmaps, moves or discards waits until its event has been read, and
 * until then every install gets EAGAIN (userfaultfd_ctx.mmap_changing): so once an event is read, what we know of
 * the space is exactly what held when the change was made.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"
#include "uffd.h"

enum { SETTLE_NS = 1000000 };

void events_queue(struct pager *p, struct space *space, const struct fault *fault)
{
    struct fault *queued;

    if (p->faults_count == FAULTS_MAX) {
        install_wake(space, fault->addr, WR_PAGE_BYTES);
        return;
    }
    queued = &p->faults[(p->faults_first + p->faults_count++) % FAULTS_MAX];
    *queued = *fault;
    queued->addr &= ~(uint64_t)(WR_PAGE_BYTES - 1);
    queued->tsc = trace_now();
}

static struct space *free_space(struct pager *p)
{
    for (uint32_t i = 1; i < p->spaces_count; i++)
        if (p->spaces[i].uffd < 0)
            return &p->spaces[i];
    return NULL;
}

void events_release(struct pager *p, struct space *space)
{
    for (uint32_t i = 0; i < p->faults_count; i++) {
        struct fault *fault = &p->faults[(p->faults_first + i) % FAULTS_MAX];

        if (!fault->shared && &p->spaces[fault->space] == space)
            fault->addr = 0;
    }
    raw1(SYS_close, space->uffd);
    space->uffd = -1;
    space->missing = 0;
    space->views_count = 0;
    space->left_count = 0;
    space->late.bytes = 0;
    p->spaces_used--;
    pager_say(WR_MESSAGE_CHILD_GONE, space->number, 0, 0, -1);
}

void events_reap(struct pager *p)
{
    for (uint32_t s = 1; s < p->spaces_count; s++)
        if (p->spaces[s].uffd >= 0 && install_gone(p, &p->spaces[s]))
            events_release(p, &p->spaces[s]);
}

/* MADV_WIPEONFORK is no event, so the launcher looks at the flags of the mappings. The child has them as they were when it
 * was forked; another thread of its parent that changes them at the same moment may be a moment ahead of us. Which process
 * another space belongs to nobody knows: its children get what held when it was forked itself. */
static void learn_wipes(struct pager *p, struct space *space)
{
    struct wr_wipes *wipes = &p->ctl->wipes;
    uint64_t from = 0;

    do {
        pager_ask(p, WR_MESSAGE_WIPES, from, &wipes->ready);
        if (wipes->count > WR_WIPES)
            pager_lost(WR_LOST_WIPES, -ENOENT);
        for (uint32_t i = 0; i < wipes->count; i++) {
            if (!space_has_room(space))
                pager_lost(WR_LOST_POOL, -ENOSPC);
            space_wipe(space, wipes->list[i].start, wipes->list[i].end);
        }
        from = wipes->next;
    } while (from);
}

static void forked(struct pager *p, struct space *parent, int uffd)
{
    struct space *child;

    if (!parent->missing) {
        raw1(SYS_close, uffd);
        return;
    }
    child = free_space(p);
    if (!child)
        pager_lost(WR_LOST_POOL, -EAGAIN);
    pager_adopt(p, child, uffd);
    p->spaces_used++;
    if (parent == &p->spaces[0]) {
        /* Should the launcher end before it answers, all that the child may lack is poisoned. */
        space_keep_all(parent);
        space_fork(child, parent);
        learn_wipes(p, parent);
    }
    space_fork(child, parent);
}

static void move_now(struct pager *p, struct space *space, const struct move *move)
{
    p->counters->dropped_pages += space_remap(space, move->from, move->to, move->bytes);
    /* With MREMAP_DONTUNMAP none is told: the oldest are likely to be such. */
    if (space->left_count == SPACE_MOVES)
        for (space->left_count = 0; space->left_count + 1 < SPACE_MOVES; space->left_count++)
            space->left[space->left_count] = space->left[space->left_count + 1];
    space->left[space->left_count++] = *move;
    install_wake(space, move->from, move->bytes);
}

/* The kernel changes the mm first and queues the events afterwards (mremap_userfaultfd_complete and
 * userfaultfd_unmap_complete), so those of several threads may come in another order than the changes were made. It moves
 * nothing onto what is watched without having told of the unmap: a move to a place that we still see something at comes
 * from a thread that was quicker than the one which has made room. */
static void moved(struct pager *p, struct space *space, const struct move *move)
{
    if (!space_covers(space, move->to, move->to + move->bytes) || !install_must_wait(p, space)) {
        move_now(p, space, move);
        return;
    }
    if (space->late.bytes)
        pager_lost(WR_LOST_ORDER, -EAGAIN);
    space->late = *move;
    space->late_left = 0;
}

/* mremap tells that it has unmapped the old place only when its move has been read: somebody else may long have moved
 * something else there. */
static int was_moved_away(struct space *space, uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < space->left_count; i++)
        if (space->left[i].from == start && space->left[i].bytes == end - start) {
            space->left[i] = space->left[--space->left_count];
            return 1;
        }
    if (!space->late.bytes || space->late_left || space->late.from != start ||
        space->late.bytes != end - start)
        return 0;
    space->late_left = 1;
    return 1;
}

static void move_late(struct pager *p, struct space *space)
{
    struct move move = space->late;

    space->late.bytes = 0;
    move_now(p, space, &move);
    space->left_count -= space->late_left;
}

int events_settled(struct pager *p, struct space *space)
{
    if (!space->late.bytes && !space->left_count)
        return 1;
    if (install_must_wait(p, space))
        return !space->late.bytes;
    storm_lock(p);
    if (space->late.bytes)
        move_late(p, space);
    space->left_count = 0;
    storm_unlock(p);
    return 1;
}

static void apply(struct pager *p, struct space *space, const struct uffd_msg *message)
{
    uint64_t start = message->arg.remove.start, end = message->arg.remove.end;

    if (message->event == UFFD_EVENT_PAGEFAULT) {
        const struct fault fault = {.addr = message->arg.pagefault.address,
                                    .space = (uint32_t)(space - p->spaces),
                                    .tid = message->arg.pagefault.feat.ptid};

        events_queue(p, space, &fault);
        return;
    }
    p->counters->events++;
    if (!space_has_room(space))
        space_prune(space);
    if (!space_has_room(space))
        pager_lost(WR_LOST_POOL, -ENOSPC);
    switch (message->event) {
    case UFFD_EVENT_FORK:
        forked(p, space, (int)message->arg.fork.ufd);
        break;
    case UFFD_EVENT_REMOVE:
        p->counters->dropped_pages += space_discard(space, start, end);
        install_wake(space, start, end - start);
        break;
    case UFFD_EVENT_UNMAP:
        if (was_moved_away(space, start, end))
            break;
        p->counters->dropped_pages += space_unmap(space, start, end);
        install_wake(space, start, end - start);
        break;
    case UFFD_EVENT_REMAP:
        moved(p, space,
              &(struct move){message->arg.remap.from, message->arg.remap.to, message->arg.remap.len});
        break;
    }
    if (space->late.bytes && !space_covers(space, space->late.to, space->late.to + space->late.bytes))
        move_late(p, space);
}

uint32_t events_free_spaces(const struct pager *p)
{
    return p->spaces_count - p->spaces_used;
}

/* A space that has nothing missing needs no room for its forks. */
int events_readable(const struct pager *p, const struct space *space)
{
    uint32_t free = events_free_spaces(p), last = space == &p->spaces[0] ? SPACES_LAST : 0;

    return !space->missing || free > last;
}

/* One message: the userfaultfd of a fork that came with others would be ours alone until those before it are applied. */
static void read_and_apply(struct pager *p, struct space *space)
{
    struct uffd_msg message;
    long n = raw3(SYS_read, space->uffd, &message, sizeof(message));

    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n != sizeof(message))
        pager_lost(WR_LOST_UFFD_READ, n);
    apply(p, space, &message);
}

void events_read(struct pager *p, struct space *space)
{
    if (events_free_spaces(p) < SPACES_RESERVE)
        events_reap(p);
    if (space->uffd < 0 || !events_readable(p, space))
        return;
    storm_lock(p);
    read_and_apply(p, space);
    storm_unlock(p);
}

int events_settle(struct pager *p, struct space *space)
{
    struct pollfd fds[1 + SPACES_MAX] = {{.fd = space->uffd, .events = POLLIN}};
    struct shared *shared = &p->shared;
    struct {
        long seconds, nanoseconds;
    } moment = {0, SETTLE_NS};

    if (!events_readable(p, space))
        return 0;
    p->counters->retries++;
    for (uint32_t s = 0; s < shared->spaces_count; s++)
        fds[1 + s] = (struct pollfd){.fd = shared->spaces[s].uffd, .events = POLLIN};
    raw6(SYS_ppoll, (long)fds, 1 + shared->spaces_count, (long)&moment, 0, 0, 0);
    if (fds[0].revents & POLLIN)
        events_read(p, space);
    for (uint32_t s = 0; s < shared->spaces_count; s++)
        if (fds[1 + s].revents & POLLIN && shared->spaces[s].uffd == fds[1 + s].fd)
            shared_read(p, &shared->spaces[s]);
    return 1;
}
