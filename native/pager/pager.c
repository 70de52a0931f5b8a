/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop: faults first, then what must be there before the target resumes, then the rest.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "pager.h"

enum {
    IDLE_SECONDS = 1,
    CTL_LOOK_NS = 1000000,
    AWAIT_NS = 50000000,
    EXIT_LOST = 125,
    VIEWS_MIN = 16384,
    DEATH_SECONDS = 5,
    FAIL_STOP_ROUNDS = 100,
    STUCK_TURNS = 5000,
    STORM_WAIT_NS = 100000,
};

struct timespec_raw {
    long seconds;
    long nanoseconds;
};

void pager_say(uint32_t kind, uint64_t a, uint64_t b, uint64_t c, int fd)
{
    struct wr_message message = {.kind = kind, .a = a, .b = b, .c = c};
    struct iovec {
        void *base;
        uint64_t bytes;
    } vector = {&message, sizeof(message)};
    union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr header = {.msg_iov = (void *)&vector, .msg_iovlen = 1};

    if (fd >= 0) {
        __builtin_memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
    }
    raw3(SYS_sendmsg, WR_PAGER_CHANNEL, &header, MSG_NOSIGNAL);
}

/* It has left the mm when its pidfd says that it has ended (do_exit: exit_mm, then exit_notify), and nobody need reap it, as
 * long as we are there: a zombie would keep the program's session. */
static void end_keeper(void)
{
    struct pollfd gone = {.fd = WR_PAGER_KEEPER, .events = POLLIN};

    if (raw4(SYS_pidfd_send_signal, WR_PAGER_KEEPER, SIGKILL, 0, 0) == 0)
        raw6(SYS_ppoll, (long)&gone, 1, 0, 0, 0, 0);
}

/* With 0 when nobody is left who could miss a page; only the launcher's own child could tell it so by its exit code. With
 * others the keeper stays until the launcher has ended the program. */
static _Noreturn void leave(int code)
{
    if (code == 0) {
        end_keeper();
        pager_say(WR_MESSAGE_LEFT, 0, 0, 0, -1);
    }
    for (;;)
        raw1(SYS_exit_group, code);
}

/* What a space lacks of one record; a space whose mm is gone is released, one that may not be read from left as it is. */
static void poison_record(struct pager *p, struct space *space, uint64_t index)
{
    while (space->uffd >= 0 && space->need[index]) {
        int result = events_settled(p, space) ? install_poison(p, space, index) : -EAGAIN;

        if (result == -EAGAIN && !events_settle(p, space))
            return;
        if (result == -ESRCH)
            events_release(p, space);
    }
}

/* Everything that one space lacks. A child of it may come up meanwhile, in any free place of the table. */
static void poison_space(struct pager *p, struct space *space)
{
    for (uint64_t i = 0; space->missing && i < p->records_count; i++)
        poison_record(p, space, i);
}

/* SIGKILL takes effect when the thread next enters the kernel: until all are dead a missing page must stay missing. */
static void kill_target(void)
{
    struct pollfd fd = {.fd = WR_PAGER_PIDFD, .events = POLLIN};
    const struct timespec_raw timeout = {DEATH_SECONDS, 0};

    raw4(SYS_pidfd_send_signal, WR_PAGER_PIDFD, SIGKILL, 0, 0);
    raw6(SYS_ppoll, (long)&fd, 1, (long)&timeout, 0, 0, 0);
}

/* The launcher may be the one that is gone, so nothing can be left to it: the target is killed here. What forked
 * children lack is poisoned, so that none of them reads a zero which was never written; they have no pidfd of ours.
 * Again and again, for poisoning a child lets it fork: a grandchild that was noted below the place in the table where
 * the round stood would be left with holes, which read as zeroes once we are gone. The target's own as well: who reads
 * it by process_vm_readv keeps its mm, and goes on reading, after its death. */
static _Noreturn void fail_stop(struct pager *p)
{
    int again = 1;

    p->failing = 1;
    kill_target();
    for (int round = 0; again && round < FAIL_STOP_ROUNDS; round++) {
        again = 0;
        for (uint32_t s = 0; s < p->spaces_count; s++) {
            if (p->spaces[s].uffd < 0)
                continue;
            events_read(p, &p->spaces[s]);
            again |= p->spaces[s].missing != 0;
            poison_space(p, &p->spaces[s]);
            if (s > 0 && p->spaces[s].uffd >= 0 && !p->spaces[s].missing)
                events_release(p, &p->spaces[s]);
        }
        shared_poison(p);
    }
    leave(EXIT_LOST);
}

_Noreturn void pager_lost(uint32_t what, long error)
{
    pager_say(WR_MESSAGE_LOST, (uint64_t)-error, what, 0, -1);
    raw4(SYS_pidfd_send_signal, WR_PAGER_PIDFD, SIGKILL, 0, 0);
    leave(EXIT_LOST);
}

static void poison(struct pager *p, uint64_t index)
{
    const struct wr_record *record = &p->records[index];

    pager_say(p->eager_done ? WR_MESSAGE_POISONED : WR_MESSAGE_EAGER_BAD, record->addr, record->where,
              (uint64_t)__builtin_popcount(record->mask), -1);
    for (uint32_t s = 0; s < p->spaces_count; s++)
        poison_record(p, &p->spaces[s], index);
}

/* Pages of file-private VMAs, which userfaultfd does not cover: plain stores, while the tree still waits. */
static void write_file_pages(struct pager *p, const struct decoded *decoded)
{
    struct space *own = &p->spaces[0];

    for (uint32_t s = 0; s < p->process->segments_count; s++) {
        const struct wr_segment *segment = &p->segments[s];

        for (uint32_t page = 0; page < WR_CHUNK_PAGES && segment->flags & WR_SEGMENT_WRITE; page++) {
            uint64_t addr = p->records[decoded->record].addr + page * (uint64_t)WR_PAGE_BYTES;

            if (addr < segment->start || addr >= segment->end || !(own->need[decoded->record] >> page & 1))
                continue;
            __builtin_memcpy((void *)addr, chunk_page(p, decoded, page), WR_PAGE_BYTES);
            space_settle(own, decoded->record, page, 1);
            p->counters->written_pages++;
        }
    }
}

/* Children first: MOVE into the process's own space takes the pages away. A child that comes up by an event in
 * between needs only what its parent still needed, so it is served on the next round of the same loop. */
static void install_everywhere(struct pager *p, const struct decoded *decoded, uint64_t *counter)
{
    for (uint32_t s = p->spaces_count; s-- > 0;) {
        struct space *space = &p->spaces[s];
        int result;

        if (space->uffd < 0 || !space->need[decoded->record])
            continue;
        result = events_settled(p, space) ? install_chunk(p, space, decoded, counter) : -EAGAIN;
        if (result == 0)
            continue;
        if (result == -ESRCH && s > 0) {
            events_release(p, space);
            continue;
        }
        if (result == -ESRCH)
            leave(0);
        if (events_settle(p, space))
            s = p->spaces_count;
    }
}

static int index_seen(struct pager *p)
{
    p->index_ready = p->index_ready || __atomic_load_n(&p->ctl->index_ready, __ATOMIC_SEQ_CST) != 0;
    return p->index_ready;
}

/* The launcher may end while we wait: then nobody will ever set the word. */
void pager_await(struct pager *p, uint32_t *word, uint32_t while_equal)
{
    const struct timespec_raw timeout = {0, AWAIT_NS};
    struct pollfd fd = {.fd = WR_PAGER_CHANNEL};

    raw4(SYS_futex, word, FUTEX_WAIT, while_equal, &timeout);
    if (raw6(SYS_ppoll, (long)&fd, 1, (long)&(struct timespec_raw){0, 0}, 0, 0, 0) > 0)
        fail_stop(p);
}

void pager_ask(struct pager *p, uint32_t kind, uint64_t about, uint32_t *ready)
{
    __atomic_store_n(ready, 0, __ATOMIC_SEQ_CST);
    pager_say(kind, about, 0, 0, -1);
    while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE))
        pager_await(p, ready, 0);
}

/* At once: until it is sent nobody but us holds it. */
void pager_adopt(struct pager *p, struct space *child, int uffd)
{
    child->uffd = uffd;
    child->number = ++p->next_number;
    pager_say(WR_MESSAGE_CHILD, child->number, 0, 0, uffd);
}

/* `where` of a record is written by the launcher while the loader runs, and longer where a working set comes first. */
static void wait_for_index(struct pager *p)
{
    while (!index_seen(p))
        pager_await(p, &p->ctl->index_ready, 0);
}

int pager_needs(const struct pager *p, uint64_t record)
{
    for (uint32_t s = 0; s < p->spaces_count; s++)
        if (p->spaces[s].uffd >= 0 && p->spaces[s].need[record])
            return 1;
    return 0;
}

void pager_install(struct pager *p, const struct decoded *decoded, uint64_t *counter)
{
    if (p->records[decoded->record].flags & WR_RECORD_WRITE && !p->resumed)
        write_file_pages(p, decoded);
    install_everywhere(p, decoded, counter);
}

void pager_deliver(struct pager *p, int result, const struct decoded *decoded, uint64_t *counter)
{
    if (result == -EBADMSG || result == -EIO) {
        poison(p, decoded->record);
        return;
    }
    if (result != 0)
        pager_lost(WR_LOST_DATA_READ, result);
    pager_install(p, decoded, counter);
}

void pager_bring(struct pager *p, uint64_t index, int urgent, uint64_t *counter)
{
    struct decoded decoded = {.record = index};
    uint32_t place = 0;
    struct batch *batch = batch_find(p, index, &place);
    int result = batch ? batch_decoded(p, batch, place, &decoded) : -EAGAIN, taken = 0;

    if (result == -EAGAIN) {
        taken = batch && batch_take(batch, place);
        wait_for_index(p);
        result = chunk_decode(p, index, urgent, &decoded);
        trace_phase(p, WR_PHASE_READ, p->decoder.read_at);
        trace_phase(p, WR_PHASE_DECODE, trace_now());
    }
    pager_deliver(p, result, &decoded, counter);
    if (taken)
        batch_finish(batch, place, -EAGAIN);
}

static uint64_t *fill_counter(const struct pager *p)
{
    return p->eager_done ? &p->counters->fill_pages : &p->counters->eager_pages;
}

/* One record that the space lacks; 0 if it has all. */
static int fill_one(struct pager *p, struct space *space)
{
    for (; space->next < p->records_count; space->next++)
        if (space->need[space->next]) {
            pager_bring(p, space->next, 0, fill_counter(p));
            return 1;
        }
    return 0;
}

/* The same for the process's own space. When all that is left to do is what the other thread is at, it is not waited for but
 * done again, which happens once a restore: the thread gets no CPU that anybody else wants. */
static int fill_own(struct pager *p)
{
    return batch_step(p, fill_counter(p)) || fill_one(p, &p->spaces[0]);
}

static int eager_one(struct pager *p)
{
    if (hot_eager(p) && hot_one(p, &p->counters->eager_pages))
        return 1;
    for (; p->eager_next < p->records_count; p->eager_next++)
        if (p->records[p->eager_next].flags & WR_RECORD_EAGER && p->spaces[0].need[p->eager_next]) {
            pager_bring(p, p->eager_next, 0, &p->counters->eager_pages);
            return 1;
        }
    if (shared_eager_one(p, p->ctl->fill == WR_FILL_BEFORE))
        return 1;
    if (p->ctl->fill == WR_FILL_BEFORE) {
        wait_for_index(p);
        if (fill_own(p))
            return 1;
    }
    p->eager_done = 1;
    __atomic_store_n(&p->ctl->eager_done, 1, __ATOMIC_SEQ_CST);
    raw3(SYS_futex, &p->ctl->eager_done, FUTEX_WAKE, INT32_MAX);
    return 1;
}

/* Not while its installs are refused and what they wait for may not be read. */
static int may_fill(const struct pager *p, const struct space *space)
{
    return events_readable(p, space) || !install_must_wait(p, space);
}

static int own_may_be_filled(const struct pager *p)
{
    return p->spaces[0].missing && !p->target_gone && may_fill(p, &p->spaces[0]);
}

int pager_may_fill_own(struct pager *p)
{
    return p->spaces_used == 1 && index_seen(p) && own_may_be_filled(p);
}

static int fill_a_child(struct pager *p)
{
    for (uint32_t s = 1; s < p->spaces_count; s++) {
        struct space *space = &p->spaces[s];

        if (space->uffd < 0 || !may_fill(p, space))
            continue;
        if (!space->missing || !fill_one(p, space))
            events_release(p, space);
        return 1;
    }
    return 0;
}

/* Every space has a fork waiting that has no room: only a tree whose processes all fork at once can bring us here. */
static void note_stuck(struct pager *p)
{
    int blocked = events_free_spaces(p) == 0 && !events_readable(p, &p->spaces[0]);

    p->stuck = blocked ? p->stuck + 1 : 0;
    if (p->stuck > STUCK_TURNS)
        pager_lost(WR_LOST_POOL, -EAGAIN);
}

/* Children are filled without regard to the policy when their parent has gone or spaces have run short. Then the process
 * itself is filled too, so that what it forks later needs no space; as long as they are short, the children come first. */
static int fill_any(struct pager *p)
{
    int tight = events_free_spaces(p) < SPACES_RESERVE, lazy = p->ctl->fill == WR_FILL_NONE;
    struct space *own = &p->spaces[0];
    int own_too;

    if (!index_seen(p))
        return 0;
    p->crowded |= tight;
    own_too =
        own_may_be_filled(p) && (!lazy || p->crowded || own->views_count + VIEWS_RESERVE > own->views_max);
    if (own_too && !tight)
        return fill_own(p);
    if ((!lazy || p->crowded || p->target_gone) && fill_a_child(p))
        return 1;
    if (own_too)
        return fill_own(p);
    note_stuck(p);
    return 0;
}

static void run_out(struct pager *p)
{
    worker_stop(&p->ahead.worker, &p->ctl->ahead);
    worker_stop(&p->storm.worker, &p->ctl->storm);
    storm_account(p);
    end_keeper();
    shared_finish(p);
    raw1(SYS_close, WR_PAGER_UFFD);
    __atomic_store_n(&p->ctl->loaded, 1, __ATOMIC_SEQ_CST);
    pager_say(WR_MESSAGE_LOADED, 0, 0, 0, -1);
}

/* Waits to be taken away by the launcher; goes by itself if there is no launcher any more. The process may be gone and
 * its mm still be read: by who was in process_vm_readv, or by a child of vfork. They get no zeroes either. */
static _Noreturn void finish(struct pager *p)
{
    struct pollfd fd = {.fd = WR_PAGER_CHANNEL};

    if (p->target_gone) {
        poison_space(p, &p->spaces[0]);
        shared_poison(p);
        leave(0);
    }
    run_out(p);
    while (!(fd.revents & (POLLHUP | POLLERR)))
        raw6(SYS_ppoll, (long)&fd, 1, 0, 0, 0, 0);
    leave(0);
}

/* An exec leaves us alone with the old mm, which nobody will ever ask for a page again. To us a leader that has ended
 * while its threads go on looks the same (a zombie has no mm), so the launcher is asked, which sees the threads. Where
 * kcmp(2) is not allowed (the target is not dumpable) this goes unnoticed until the target ends: that costs memory,
 * nothing else. */
static void ask_if_alone(const struct pager *p)
{
    long self = raw1(SYS_getpid, 0);

    if (raw6(SYS_kcmp, self, p->process->pid, KCMP_VM, 0, 0, 0) > 0)
        pager_say(WR_MESSAGE_ALONE, 0, 0, 0, -1);
}

static int told_alone(void)
{
    struct wr_message message;

    return raw3(SYS_read, WR_PAGER_CHANNEL, &message, sizeof(message)) == sizeof(message) &&
           message.kind == WR_MESSAGE_ALONE;
}

/* Where the program faults again at once the next fault is waited for, as long as it may take it: it may need this CPU. */
static long patience_ns(const struct pager *p, int idle)
{
    if (idle)
        return CTL_LOOK_NS;
    return !p->faults_count && storm_now(p) ? STORM_WAIT_NS : 0;
}

/* Looks at all fds at once; sleeps when told to, and in a storm. */
static void look(struct pager *p, int idle)
{
    struct pollfd fds[2 + 2 * SPACES_MAX], *shared_fds = &fds[2 + p->spaces_count];
    const struct shared *shared = &p->shared;
    struct timespec_raw timeout = {0, patience_ns(p, idle)};
    long ready;

    /* Neither the index nor `go` wakes us, and with all memory in place the launcher waits for us from `go` on. */
    if (idle && p->index_ready && p->resumed && !p->stuck)
        timeout = (struct timespec_raw){IDLE_SECONDS, 0};
    fds[0] = (struct pollfd){.fd = WR_PAGER_CHANNEL, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = p->target_gone ? -1 : WR_PAGER_PIDFD, .events = POLLIN};
    for (uint32_t s = 0; s < p->spaces_count; s++)
        fds[2 + s] = (struct pollfd){.fd = events_readable(p, &p->spaces[s]) ? p->spaces[s].uffd : -1,
                                     .events = POLLIN};
    for (uint32_t s = 0; s < shared->spaces_count; s++)
        shared_fds[s] = (struct pollfd){.fd = shared->spaces[s].uffd, .events = POLLIN};
    ready = raw6(SYS_ppoll, (long)fds, 2 + p->spaces_count + shared->spaces_count, (long)&timeout, 0, 0, 0);
    if (ready == 0 && idle && p->resumed && !p->target_gone && !p->stuck)
        ask_if_alone(p);
    if (ready == 0 && idle) {
        events_reap(p);
        shared_reap(p);
    }
    if (ready <= 0)
        return;
    if (fds[0].revents & (POLLHUP | POLLERR))
        fail_stop(p);
    if (fds[1].revents || (fds[0].revents && told_alone()))
        p->target_gone = 1;
    for (uint32_t s = 0; s < p->spaces_count; s++)
        if (fds[2 + s].revents && p->spaces[s].uffd == fds[2 + s].fd)
            events_read(p, &p->spaces[s]);
    for (uint32_t s = 0; s < shared->spaces_count; s++)
        if (shared_fds[s].revents && shared->spaces[s].uffd == shared_fds[s].fd)
            shared_read(p, &shared->spaces[s]);
}

/* One step of work; 0 when there is none. */
static int work(struct pager *p)
{
    if (p->faults_count) {
        fault_one(p);
        return 1;
    }
    if (!p->eager_done)
        return eager_one(p);
    if (hot_one(p, &p->counters->fill_pages))
        return 1;
    return fill_any(p) || shared_fill_one(p);
}

static int complete(struct pager *p)
{
    return p->resumed && p->spaces_used == 1 && (!p->spaces[0].missing || p->target_gone) &&
           shared_complete(p);
}

/* The masks, views and descriptions of all spaces are cut from the pool. */
static void init_spaces(struct pager *p, uint8_t *pool, uint64_t pool_bytes)
{
    uint64_t views_max = p->process->segments_count + VIEWS_MIN;
    uint64_t need_bytes = (p->records_count * sizeof(uint16_t) + 63) & ~(uint64_t)63;
    uint64_t each = sizeof(struct space) + need_bytes + views_max * sizeof(struct view);

    p->spaces_count = (uint32_t)(pool_bytes / each < SPACES_MAX ? pool_bytes / each : SPACES_MAX);
    if (p->spaces_count < 1)
        pager_lost(WR_LOST_POOL, -ENOMEM);
    p->spaces = (struct space *)pool;
    pool += p->spaces_count * sizeof(struct space);
    for (uint32_t s = 0; s < p->spaces_count; s++) {
        p->spaces[s] = (struct space){
            .uffd = -1,
            .views_max = (uint32_t)views_max,
            .views = (struct view *)pool,
            .need = (uint16_t *)(pool + views_max * sizeof(struct view)),
            .records = p->records,
            .records_count = p->records_count,
        };
        pool += views_max * sizeof(struct view) + need_bytes;
    }
    p->spaces_used = 1;
    p->spaces[0].uffd = WR_PAGER_UFFD;
    space_init(&p->spaces[0], p->segments, p->process->segments_count);
    p->counters->total_pages += p->spaces[0].missing;
}

_Noreturn void pager_main(const struct wr_runtime *rt, uint32_t process)
{
    const struct wr_header *header = (const struct wr_header *)rt->image;
    struct pager *p = (struct pager *)rt->pool;
    uint64_t pager_bytes = (sizeof(*p) + WR_PAGE_BYTES - 1) & ~(uint64_t)(WR_PAGE_BYTES - 1);
    int busy = 1;

    p->rt = rt;
    p->process = (const struct wr_process *)(rt->image + header->processes_offset) + process;
    p->segments = (const struct wr_segment *)(rt->image + p->process->segments_offset);
    p->records = (const struct wr_record *)rt->records;
    p->records_count = rt->records_count;
    p->ctl = (struct wr_ctl *)rt->ctl;
    p->counters = &p->ctl->counters;
    p->trace = (struct wr_trace *)(rt->trace);
    hot_init(p);
    batch_init(p);
    p->buffer = (uint8_t *)rt->pool + pager_bytes;
    pager_bytes += WR_CHUNK_BYTES;
    if (chunk_init(p) != 0)
        pager_lost(WR_LOST_POOL, -ENOMEM);
    pager_bytes += worker_init(p, &p->ahead.worker, (uint8_t *)rt->pool + pager_bytes);
    pager_bytes += worker_init(p, &p->storm.worker, (uint8_t *)rt->pool + pager_bytes);
    pager_bytes += shared_init(p, (uint8_t *)rt->pool + pager_bytes, rt->pool_bytes - pager_bytes);
    init_spaces(p, (uint8_t *)rt->pool + pager_bytes, rt->pool_bytes - pager_bytes);
    for (;;) {
        look(p, !busy);
        storm_account(p);
        p->resumed = p->resumed || __atomic_load_n(&p->ctl->go, __ATOMIC_SEQ_CST) != 0;
        busy = work(p);
        if (!busy && complete(p))
            finish(p);
    }
}
