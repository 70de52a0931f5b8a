/* SPDX-License-Identifier: Apache-2.0 */
#include "namespace.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"
#include "signals.h"

enum { INIT_WATCH = 1, INIT_RELEASE = 2 };

struct request {
    int kind;
    pid_t pid;
};

static int ask(int control, int kind, pid_t pid)
{
    struct request request = {kind, pid};
    int answer;
    if (send(control, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request) ||
        recv(control, &answer, sizeof(answer), 0) != sizeof(answer))
        return EPIPE;
    return answer;
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof(info)) == sizeof(info))
        continue;
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        continue;
}

/* Returns false when the launcher has gone without having released the init. */
static bool serve(int control, int *watched, bool *released)
{
    struct request request;
    int answer = 0;
    if (recv(control, &request, sizeof(request), 0) != sizeof(request))
        return *released;
    if (request.kind == INIT_WATCH) {
        *watched = (int)syscall(SYS_pidfd_open, request.pid, 0);
        answer = *watched < 0 ? errno : 0;
    } else {
        *released = true;
        prctl(PR_SET_PDEATHSIG, 0);
    }
    return send(control, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer);
}

/* Leaves when the watched process has ended, and the kernel then kills what is left in the namespace. */
static void init_loop(int control)
{
    bool released = false;
    int signals = signals_fd();
    struct pollfd fds[] = {{signals, POLLIN, 0}, {control, POLLIN, 0}, {-1, POLLIN, 0}};
    for (;;) {
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            return;
        if (fds[0].revents != 0)
            reap(signals);
        if (fds[2].revents != 0)
            return;
        if (fds[1].revents == 0)
            continue;
        if (!serve(control, &fds[2].fd, &released))
            return;
        if (released)
            fds[1].fd = -1;
    }
}

static void init_main(int control) __attribute__((noreturn));

static void init_main(int control)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "restorer-init");
    int answer = mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 ? 0 : errno;
    if (dup2(control, STDIN_FILENO) < 0)
        _exit(1);
    close_range(STDIN_FILENO + 1, ~0U, 0);
    if (send(STDIN_FILENO, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer) && answer == 0 &&
        chdir("/") == 0)
        init_loop(STDIN_FILENO);
    _exit(0);
}

void namespace_enter(struct tree *tree)
{
    int sockets[2], answer = EPIPE;
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0)
        die("cannot make a PID namespace: %s; --pid ns needs CAP_SYS_ADMIN: run as root", strerror(errno));
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
        die("cannot keep the mounts of the PID namespace to itself: %s", strerror(errno));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
        die("cannot make a socket pair: %s", strerror(errno));
    tree->init = fork();
    if (tree->init < 0)
        die("cannot make the init of the PID namespace: %s", strerror(errno));
    if (tree->init == 0) {
        close(sockets[0]);
        init_main(sockets[1]);
    }
    close(sockets[1]);
    tree->init_control = sockets[0];
    if (recv(sockets[0], &answer, sizeof(answer), 0) != sizeof(answer))
        answer = EPIPE;
    if (answer != 0)
        die("cannot mount /proc in the PID namespace: %s; --pid ns needs CAP_SYS_ADMIN: run as root",
            strerror(answer));
}

void namespace_watch(const struct tree *tree, pid_t pid)
{
    int error = tree->init > 0 ? ask(tree->init_control, INIT_WATCH, pid) : 0;
    if (error != 0)
        die("the init of the PID namespace cannot watch PID %d: %s", pid, strerror(error));
}

void namespace_release(struct tree *tree)
{
    if (tree->init_control < 0)
        return;
    ask(tree->init_control, INIT_RELEASE, 0);
    close(tree->init_control);
    tree->init_control = -1;
}
