/* SPDX-License-Identifier: Apache-2.0 */
#include "guard.h"

#include <errno.h>
#include <fcntl.h>
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

enum { LINK_FD = 0, TARGET_FD = 1, KEPT_FDS = 2, ROUNDS_MAX = 100 };

static const char HOLD = 'h', DISMISS = 'd';

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

/* The program and what has come from it; the userfaultfds are closed by our own end, after theirs. */
static void end_program(pid_t target)
{
    struct lineage *all = calloc(LINEAGE_MAX, sizeof(*all));
    struct stopped *stopped = calloc(1, sizeof(*stopped));
    size_t before = SIZE_MAX;
    syscall(SYS_pidfd_send_signal, TARGET_FD, SIGSTOP, NULL, 0);
    for (int round = 0; all && stopped && stopped->count != before && round < ROUNDS_MAX; round++) {
        before = stopped->count;
        stop_below(all, target, stopped);
        for (size_t i = 0; i < before && round > 0; i++)
            stop_below(all, stopped->one[i].pid, stopped);
    }
    for (size_t i = 0; stopped != NULL && i < stopped->count; i++) {
        int fd = lineage_pidfd(&stopped->one[i]);
        if (fd >= 0)
            end(fd);
    }
    end(TARGET_FD);
}

/* What the launcher says: HOLD with an fd that is simply kept open, DISMISS, or nothing ever again. */
static char listen_once(void)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    char word = 0;
    struct iovec io = {&word, 1};
    struct msghdr header = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n;
    do
        n = recvmsg(LINK_FD, &header, 0);
    while (n < 0 && errno == EINTR);
    return n == 1 ? word : 0;
}

static void guard_main(int link, int pidfd, int uffd, pid_t target) __attribute__((noreturn));

static void guard_main(int link, int pidfd, int uffd, pid_t target)
{
    char word;
    prctl(PR_SET_NAME, "restorer-guard");
    /* Above what it will lie at: dup2 must not close one that is yet to be placed. */
    int high[] = {fcntl(link, F_DUPFD, 64), fcntl(pidfd, F_DUPFD, 64), fcntl(uffd, F_DUPFD, 64)};
    for (int fd = 0; fd <= KEPT_FDS; fd++)
        if (dup2(high[fd], fd) < 0)
            _exit(1);
    close_range(KEPT_FDS + 1, ~0U, 0);
    proc_open();
    setsid();
    do
        word = listen_once();
    while (word == HOLD);
    if (word != DISMISS)
        end_program(target);
    _exit(0);
}

void guard_start(struct tree *tree)
{
    int link[2], uffd = userfaults_fd(&tree->userfaults, 0);
    if (tree->init > 0 || uffd < 0)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0)
        die("cannot make a socket pair: %s", strerror(errno));
    if (tree->guard_link >= 0)
        close(tree->guard_link);
    tree->guard_link = link[0];
    tree->guard = fork();
    if (tree->guard == 0)
        guard_main(link[1], tree->target_pidfd, uffd, tree->target);
    close(link[1]);
    if (tree->guard < 0)
        die("cannot make the guard of the restored process: %s", strerror(errno));
    for (size_t i = 0; i < tree->userfaults.count; i++)
        if (tree->userfaults.held[i].number != 0)
            guard_hold(tree, tree->userfaults.held[i].fd);
}

static void tell(const struct tree *tree, char word, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec io = {&word, 1};
    struct msghdr header = {.msg_iov = &io, .msg_iovlen = 1};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
    }
    sendmsg(tree->guard_link, &header, MSG_NOSIGNAL);
}

void guard_hold(const struct tree *tree, int fd)
{
    if (tree->guard_link >= 0)
        tell(tree, HOLD, fd);
}

void guard_dismiss(struct tree *tree)
{
    if (tree->guard_link < 0)
        return;
    tell(tree, DISMISS, -1);
    close(tree->guard_link);
    tree->guard_link = -1;
    /* As long as it lives it holds the userfaultfds, and the program's mappings show that they are watched. */
    while (tree->guard > 0 && waitpid(tree->guard, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    tree->guard = 0;
}
