/* SPDX-License-Identifier: Apache-2.0 */
#include "guard.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lineage.h"
#include "say.h"

enum { LINK_FD = 0, ROUNDS_MAX = 100 };

enum kind { HOLD = 1, DROP, TARGET, INIT, QUEUE, DISMISS };

/* What the launcher says. With an fd come HOLD, a userfaultfd; TARGET and INIT, a pidfd; QUEUE, the launcher's end of a
 * channel, for the userfaultfds of messages that it has not read. */
struct word {
    enum kind kind;
    uint32_t member;
    uint64_t number; /* of the userfaultfd among the member's; a target's PID */
};

/* What the guard keeps open. */
struct kept {
    struct word word;
    int fd;
};

static struct kept *kept;
static size_t kept_count, kept_room;

/* Processes at one moment. The family: the targets and those below them, in the order in which they were found. Killed are
 * these, not whoever is found below a target later: when it has ended its children have another parent. */
struct listing {
    size_t count;
    struct lineage one[LINEAGE_MAX];
};

static const struct lineage *find(const struct listing *listing, pid_t pid)
{
    for (size_t i = 0; i < listing->count; i++)
        if (listing->one[i].pid == pid)
            return &listing->one[i];
    return NULL;
}

static void stop(const struct lineage *one, struct listing *family)
{
    int fd = family->count < LINEAGE_MAX ? lineage_pidfd(one) : -1;
    if (fd < 0)
        return;
    syscall(SYS_pidfd_send_signal, fd, SIGSTOP, NULL, 0);
    close(fd);
    family->one[family->count++] = *one;
}

static void stop_targets(struct listing *family)
{
    for (size_t i = 0; i < kept_count; i++) {
        struct lineage target = {.pid = (pid_t)kept[i].word.number};
        if (kept[i].word.kind == TARGET && proc_stat(target.pid, &target.stat))
            stop(&target, family);
    }
}

/* One more generation; false when there was none. */
static bool stop_children(const struct listing *all, struct listing *family)
{
    size_t before = family->count;
    for (size_t i = 0; i < all->count; i++)
        if (find(family, all->one[i].stat.parent) != NULL && find(family, all->one[i].pid) == NULL)
            stop(&all->one[i], family);
    return family->count != before;
}

/* Stopped first, so that none forks while the list is made; the last one has nobody new. */
static void stop_family(struct listing *all, struct listing *family)
{
    size_t before = SIZE_MAX;
    stop_targets(family);
    for (int round = 0; family->count != before && round < ROUNDS_MAX; round++) {
        before = family->count;
        all->count = lineage_all(all->one);
        while (stop_children(all, family))
            continue;
    }
}

static void end(int pidfd)
{
    struct pollfd gone = {pidfd, POLLIN, 0};
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    while (poll(&gone, 1, -1) < 0 && errno == EINTR)
        continue;
    close(pidfd);
}

static bool end_one(const struct lineage *one)
{
    int fd = lineage_pidfd(one);
    if (fd >= 0)
        end(fd);
    return fd >= 0;
}

static bool is_kin(const struct listing *family, const struct proc_stat *stat)
{
    for (size_t i = 0; i < family->count; i++)
        if (family->one[i].stat.group == stat->group && family->one[i].stat.session == stat->session)
            return true;
    return false;
}

/* A thread that was in the middle of a fork stops only when it is through: its child comes up after the lists were made, and
 * once its parent has been killed nothing leads to it. It is none of those that were there, has the group and session of
 * its parent, and lacks memory, which whoever has taken it over does not. */
static bool is_latecomer(const struct listing *all, const struct listing *family, const struct lineage *one)
{
    const struct lineage *known = find(all, one->pid);
    if (known != NULL && known->stat.start_ticks == one->stat.start_ticks)
        return false;
    return is_kin(family, &one->stat) && proc_is_watched(one->pid) && !proc_is_watched(one->stat.parent);
}

static bool end_latecomers(const struct listing *all, const struct listing *family, struct listing *now)
{
    bool any = false;
    now->count = lineage_all(now->one);
    for (size_t i = 0; i < now->count; i++)
        if (is_latecomer(all, family, &now->one[i]))
            any |= end_one(&now->one[i]);
    return any;
}

static void end_family(void)
{
    struct listing *all = calloc(1, sizeof(*all)), *now = calloc(1, sizeof(*now)),
                   *family = calloc(1, sizeof(*family));
    if (all == NULL || now == NULL || family == NULL)
        return;
    stop_family(all, family);
    for (size_t i = 0; i < family->count; i++)
        end_one(&family->one[i]);
    for (int round = 0; round < ROUNDS_MAX && end_latecomers(all, family, now); round++)
        continue;
}

static void end_targets(void)
{
    for (size_t i = 0; i < kept_count; i++)
        if (kept[i].word.kind == TARGET)
            end(kept[i].fd);
}

/* The init of a namespace is a zombie only when all in it have ended (zap_pid_ns_processes, kernel/pid_namespace.c). */
static bool end_namespace(void)
{
    for (size_t i = 0; i < kept_count; i++)
        if (kept[i].word.kind == INIT) {
            end(kept[i].fd);
            return true;
        }
    return false;
}

/* The program and what has come from it; the userfaultfds are closed by our own end, after theirs. */
static void end_program(void)
{
    if (end_namespace())
        return;
    end_family();
    end_targets();
}

static bool keep(const struct word *word, int fd)
{
    if (kept_count == kept_room) {
        size_t room = kept_room * 2 + 16;
        struct kept *grown = realloc(kept, room * sizeof(*kept));
        if (grown == NULL)
            return false;
        kept = grown;
        kept_room = room;
    }
    kept[kept_count++] = (struct kept){*word, fd};
    return true;
}

static void drop(const struct word *word)
{
    for (size_t i = kept_count; i-- > 0;) {
        const struct word *one = &kept[i].word;
        if (one->kind != HOLD || one->member != word->member || one->number != word->number)
            continue;
        close(kept[i].fd);
        kept[i] = kept[--kept_count];
    }
}

/* False when the launcher has nothing more to say: `word` is DISMISS then, or it has died. */
static bool listen_once(struct word *word)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct iovec io = {word, sizeof(*word)};
    struct msghdr header = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n;
    int fd = -1;
    memset(word, 0, sizeof(*word));
    do
        n = recvmsg(LINK_FD, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != sizeof(*word) || word->kind == DISMISS)
        return false;
    if (word->kind == DROP)
        drop(word);
    const struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    if (c != NULL)
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd < 0 || keep(word, fd);
}

static void guard_main(int link, bool namespace) __attribute__((noreturn));

static void guard_main(int link, bool namespace)
{
    struct word word;
    say_cleanup(NULL); /* the launcher's */
    prctl(PR_SET_NAME, "restorer-guard");
    if (dup2(link, LINK_FD) < 0)
        _exit(1);
    close_range(LINK_FD + 1, ~0U, 0);
    /* Of a namespace it ends the init, and what is at /proc is of that namespace. */
    if (!namespace)
        proc_open();
    setsid();
    while (listen_once(&word))
        continue;
    if (word.kind != DISMISS)
        end_program();
    _exit(0);
}

static void tell(const struct tree *tree, const struct word *word, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec io = {(void *)(uintptr_t)word, sizeof(*word)};
    struct msghdr header = {.msg_iov = &io, .msg_iovlen = 1};
    if (tree->guard_link < 0)
        return;
    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
    }
    sendmsg(tree->guard_link, &header, MSG_NOSIGNAL);
}

/* PIDs of the namespace mean nothing to the guard, which is outside: its init stands for them all. */
static void tell_init(const struct tree *tree)
{
    const struct word word = {INIT, 0, (uint64_t)tree->init};
    int fd = (int)syscall(SYS_pidfd_open, tree->init, 0);
    if (fd < 0)
        return; /* reaped: there is nothing left to end */
    tell(tree, &word, fd);
    close(fd);
}

static void tell_all(const struct tree *tree)
{
    if (tree->init > 0)
        tell_init(tree);
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct member *member = &tree->members[i];
        const struct word queue = {QUEUE, member->index, 0};
        if (member->channel >= 0)
            tell(tree, &queue, member->channel);
        guard_target(tree, member);
        for (size_t k = 0; k < member->userfaults.count; k++)
            guard_hold(tree, member, member->userfaults.held[k].number, member->userfaults.held[k].fd);
    }
}

/* What we fork from now on is in the PID namespace of `pid` (pidfds in setns(2), Linux 5.8), unless that has ended. */
static void children_go_to(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return;
    setns(fd, CLONE_NEWPID);
    close(fd);
}

/* In our own namespace: in that of the program it would be killed with the init. It is, where ours belongs to a user namespace
 * in which we may do nothing. */
static pid_t fork_outside(pid_t init)
{
    if (init > 0)
        children_go_to(getpid());
    pid_t pid = fork();
    if (pid > 0 && init > 0)
        children_go_to(init);
    return pid;
}

void guard_start(struct tree *tree)
{
    int link[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0)
        die("cannot make a socket pair: %s", strerror(errno));
    if (tree->guard_link >= 0)
        close(tree->guard_link);
    tree->guard_link = link[0];
    tree->guard = fork_outside(tree->init);
    if (tree->guard == 0)
        guard_main(link[1], tree->init > 0);
    close(link[1]);
    if (tree->guard < 0)
        die("cannot make the guard of the restored process: %s", strerror(errno));
    tell_all(tree);
}

void guard_target(const struct tree *tree, const struct member *member)
{
    const struct word word = {TARGET, member->index, (uint64_t)member->pid};
    if (member->pidfd >= 0 && tree->init == 0)
        tell(tree, &word, member->pidfd);
}

void guard_hold(const struct tree *tree, const struct member *member, uint64_t number, int fd)
{
    const struct word word = {HOLD, member->index, number};
    tell(tree, &word, fd);
}

void guard_drop(const struct tree *tree, const struct member *member, uint64_t number)
{
    const struct word word = {DROP, member->index, number};
    tell(tree, &word, -1);
}

void guard_dismiss(struct tree *tree)
{
    const struct word word = {DISMISS, 0, 0};
    if (tree->guard_link < 0)
        return;
    tell(tree, &word, -1);
    close(tree->guard_link);
    tree->guard_link = -1;
    /* As long as it lives it holds the userfaultfds, and the program's mappings show that they are watched. */
    while (tree->guard > 0 && waitpid(tree->guard, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    tree->guard = 0;
}
