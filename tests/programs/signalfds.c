/* SPDX-License-Identifier: Apache-2.0 */
/* signalfds: masks, flags, signals that wait in one, one watched by epoll. */
#include "test.h"
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

static int make(int first, int second, int flags)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, first);
    sigaddset(&mask, second);
    int fd = signalfd(-1, &mask, flags);
    MUST(fd >= 0 && sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
    return fd;
}

static int next(int fd, struct signalfd_siginfo *info)
{
    memset(info, 0, sizeof *info);
    return read(fd, info, sizeof *info) == sizeof *info ? (int)info->ssi_signo : -errno;
}

int main(int argc, char **argv)
{
    struct signalfd_siginfo info;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 9};
    test_init(argc, argv);
    int user = make(SIGUSR1, SIGUSR2, SFD_NONBLOCK | SFD_CLOEXEC);
    int realtime = make(SIGRTMIN, SIGRTMAX, 0), epoll = epoll_create1(0);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, user, &event) == 0);
    MUST(sigqueue(getpid(), SIGRTMAX, (union sigval){.sival_int = 77}) == 0);
    MUST(raise(SIGUSR2) == 0);
    test_wait();
    EXPECT_EQ(fcntl(user, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(realtime, F_GETFL) & O_NONBLOCK, 0);
    EXPECT(epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u64 == 9);
    EXPECT_EQ(next(user, &info), SIGUSR2);
    EXPECT_EQ(next(user, &info), -EAGAIN);
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    EXPECT_EQ(next(realtime, &info), SIGRTMAX);
    EXPECT_EQ(info.ssi_int, 77);
    EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
    EXPECT(epoll_wait(epoll, &event, 1, 1000) == 1 && event.data.u64 == 9);
    EXPECT_EQ(next(user, &info), SIGUSR1);
    return test_done();
}
