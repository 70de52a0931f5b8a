/* SPDX-License-Identifier: Apache-2.0 */
#include "guard.h"

#include <errno.h>
#include <poll.h>
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

enum kind { HOLD = 1, DROP, TARGET, DISMISS };

/* What the launcher says. HOLD and TARGET come with an fd: a userfaultfd, a pidfd. */
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

/* Those that were stopped. Killed are these, not whoever is found below the target later: the pager, which misses the
 * launcher at the same moment, may have killed the target by then, and its children have another parent. */
struct stopped {
    size_t count;
    struct lineage one[LINEAGE_MAX];
};

static bool is_noted(const struct stopped *stopped, const struct lineage *one)
{
    for (size_t i = 0; i < stopped->count; i++)
        if (stopped->one[i].pid == one->pid)
            return true;
    return false;
}

/* Stopped first, so that none forks while the list is made. */
static void stop_below(struct lineage *all, pid_t root, struct stopped *stopped)
{
    size_t count = lineage_list(all, root);
    for (size_t i = 0; i < count && stopped->count < LINEAGE_MAX; i++) {
        if (!all[i].below || is_noted(stopped, &all[i]))
            continue;
        int fd = lineage_pidfd(&all[i]);
        if (fd < 0)
            continue;
        syscall(SYS_pidfd_send_signal, fd, SIGSTOP, NULL, 0);
        close(fd);
        stopped->one[stopped->count++] = all[i];
    }
}

static void end(int pidfd)
{
    struct pollfd gone = {pidfd, POLLIN, 0};
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    while (poll(&gone, 1, -1) < 0 && errno == EINTR)
        continue;
}

static void stop_targets(void)
{
    for (size_t i = 0; i < kept_count; i++)
        if (kept[i].word.kind == TARGET)
            syscall(SYS_pidfd_send_signal, kept[i].fd, SIGSTOP, NULL, 0);
}

static void stop_below_targets(struct lineage *all, struct stopped *stopped)
{
    for (size_t i = 0; i < kept_count; i++)
        if (kept[i].word.kind == TARGET)
            stop_below(all, (pid_t)kept[i].word.number, stopped);
}

/* The program and what has come from it; the userfaultfds are closed by our own end, after theirs. */
static void end_program(void)
{
    struct lineage *all = calloc(LINEAGE_MAX, sizeof(*all));
    struct stopped *stopped = calloc(1, sizeof(*stopped));
    size_t before = SIZE_MAX;
    stop_targets();
    for (int round = 0; all && stopped && stopped->count != before && round < ROUNDS_MAX; round++) {
        before = stopped->count;
        stop_below_targets(all, stopped);
        for (size_t i = 0; i < before && round > 0; i++)
            stop_below(all, stopped->one[i].pid, stopped);
    }
    for (size_t i = 0; stopped != NULL && i < stopped->count; i++) {
        int fd = lineage_pidfd(&stopped->one[i]);
        if (fd >= 0)
            end(fd);
    }
    for (size_t i = 0; i < kept_count; i++)
        if (kept[i].word.kind == TARGET)
            end(kept[i].fd);
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

static void guard_main(int link) __attribute__((noreturn));

static void guard_main(int link)
{
    struct word word;
    prctl(PR_SET_NAME, "restorer-guard");
    if (dup2(link, LINK_FD) < 0)
        _exit(1);
    close_range(LINK_FD + 1, ~0U, 0);
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

static void tell_all(const struct tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct member *member = &tree->members[i];
        guard_target(tree, member);
        for (size_t k = 0; k < member->userfaults.count; k++)
            guard_hold(tree, member, member->userfaults.held[k].number, member->userfaults.held[k].fd);
    }
}

void guard_start(struct tree *tree)
{
    int link[2];
    if (tree->init > 0)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0)
        die("cannot make a socket pair: %s", strerror(errno));
    if (tree->guard_link >= 0)
        close(tree->guard_link);
    tree->guard_link = link[0];
    tree->guard = fork();
    if (tree->guard == 0)
        guard_main(link[1]);
    close(link[1]);
    if (tree->guard < 0)
        die("cannot make the guard of the restored process: %s", strerror(errno));
    tell_all(tree);
}

void guard_target(const struct tree *tree, const struct member *member)
{
    const struct word word = {TARGET, member->index, (uint64_t)member->pid};
    if (member->pidfd >= 0)
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
