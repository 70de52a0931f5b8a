/* SPDX-License-Identifier: Apache-2.0
 *
 * pidfds: of a child, of this process, of a thread, of a zombie, of what has ended and was waited for; in an epoll set;
 * one that a child has too. They wait, signal, and tell of ends to come and past.
 */
#include "tree.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define GET_INFO   _IOWR(0xff, 11, struct info)
#define INFO_EXIT  8
#define P_PIDFD_ID 3

struct info {
    uint64_t mask;
    uint32_t other[13];
    int32_t exit_code;
};

static int of_parent;

static int open_pid(pid_t pid, unsigned flags)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, flags);
    MUST(fd >= 0);
    return fd;
}

static int send_signal(int pidfd, int number)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0);
}

static int has_ended(int pidfd)
{
    struct pollfd one = {pidfd, POLLIN, 0};
    return poll(&one, 1, 0);
}

/* Waits for it: pthread_join is told of a thread's end before its pidfd is (do_exit: exit_mm, then exit_notify). */
static int ends(int pidfd)
{
    struct pollfd one = {pidfd, POLLIN, 0};
    return poll(&one, 1, 20000);
}

/* What the kernel knows of the end, -1 where it tells nobody. */
static int end_of(int pidfd)
{
    struct info info = {.mask = INFO_EXIT};
    return ioctl(pidfd, GET_INFO, &info) == 0 && info.mask & INFO_EXIT ? info.exit_code : -1;
}

static int serve(char asked, void *argument)
{
    (void)asked, (void)argument;
    CHECK(send_signal(of_parent, 0) == 0 && has_ended(of_parent) == 0);
    CHECK(fcntl(of_parent, F_GETFL) & O_NONBLOCK);
    return 0;
}

static pid_t fork_to_end(int code, int number)
{
    siginfo_t info;
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        MUST(setrlimit(RLIMIT_CORE, &(struct rlimit){1, 1}) == 0);
        raise(number);
        _exit(code);
    }
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return pid;
}

static void *thread(void *tid)
{
    __atomic_store_n((pid_t *)tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    while (!test_may_go())
        usleep(1000);
    return NULL;
}

static void *ending_thread(void *pidfd)
{
    *(int *)pidfd = open_pid((pid_t)syscall(SYS_gettid), PIDFD_THREAD);
    return NULL;
}

static void expect_gone(int pidfd, int end)
{
    siginfo_t info;
    EXPECT_EQ(has_ended(pidfd), 1);
    EXPECT(send_signal(pidfd, 0) == -1 && errno == ESRCH);
    EXPECT(waitid(P_PIDFD_ID, (id_t)pidfd, &info, WEXITED | WNOHANG) == -1 && errno == ECHILD);
    EXPECT_EQ(end_of(pidfd), end);
}

static void on_signal(int number)
{
    (void)number;
}

int main(int argc, char **argv)
{
    siginfo_t info = {0};
    pthread_t running, ended;
    pid_t tid = 0;
    test_init(argc, argv);
    MUST(signal(SIGUSR1, on_signal) != SIG_ERR);
    of_parent = open_pid(getpid(), 0);
    struct child child = tree_fork(serve, NULL);
    int of_child = open_pid(child.pid, O_NONBLOCK), of_thread, of_ended_thread;
    pid_t zombie = fork_to_end(3, 0), exited = fork_to_end(5, 0), killed = fork_to_end(0, SIGSEGV);
    int of_zombie = open_pid(zombie, 0), of_exited = open_pid(exited, 0),
        of_killed = open_pid(killed, PIDFD_THREAD);
    MUST(waitpid(exited, NULL, 0) == exited && waitpid(killed, NULL, 0) == killed);
    MUST(pthread_create(&running, NULL, thread, &tid) == 0);
    MUST(pthread_create(&ended, NULL, ending_thread, &of_ended_thread) == 0 &&
         pthread_join(ended, NULL) == 0);
    while (!__atomic_load_n(&tid, __ATOMIC_SEQ_CST))
        usleep(1000);
    of_thread = open_pid(tid, PIDFD_THREAD);
    int knows_ends = end_of(of_exited) >= 0, epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 9};
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, of_child, &event) == 0);
    MUST(fcntl(of_parent, F_SETFL, O_NONBLOCK) == 0);
    test_wait();
    EXPECT(fcntl(of_child, F_GETFD) == FD_CLOEXEC && fcntl(of_child, F_GETFL) == (O_RDWR | O_NONBLOCK));
    EXPECT_EQ(fcntl(of_thread, F_GETFL), O_RDWR | PIDFD_THREAD);
    EXPECT_EQ(tree_ask(&child, 'p'), 0);
    EXPECT(send_signal(of_parent, SIGUSR1) == 0 && fcntl(of_parent, F_SETFL, 0) == 0);
    EXPECT(waitid(P_PIDFD_ID, (id_t)of_child, &info, WEXITED) == -1 && errno == EAGAIN);
    EXPECT(has_ended(of_child) == 0 && epoll_wait(epoll, &event, 1, 0) == 0);
    EXPECT(send_signal(of_child, SIGKILL) == 0 && epoll_wait(epoll, &event, 1, 20000) == 1 &&
           event.data.u64 == 9);
    EXPECT(waitid(P_PIDFD_ID, (id_t)of_child, &info, WEXITED) == 0 && info.si_pid == child.pid);
    EXPECT(info.si_code == CLD_KILLED && has_ended(of_zombie) == 1);
    EXPECT(waitid(P_PIDFD_ID, (id_t)of_zombie, &info, WEXITED) == 0 && info.si_pid == zombie);
    EXPECT_EQ(info.si_status, 3);
    EXPECT(pthread_join(running, NULL) == 0 && ends(of_thread) == 1);
    expect_gone(of_exited, knows_ends ? 5 << 8 : -1);
    expect_gone(of_killed, knows_ends ? SIGSEGV : -1);
    EXPECT_EQ(has_ended(of_ended_thread), 1);
    EXPECT(send_signal(of_ended_thread, 0) == -1 && errno == ESRCH);
    return test_done();
}
