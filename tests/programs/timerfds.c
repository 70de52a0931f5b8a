/* SPDX-License-Identifier: Apache-2.0 */
/* timerfds: time left, an absolute time, ticks that nobody has read, one that is off, one watched by epoll. */
#include "test.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

static int timer(int clock, int create_flags, int settime_flags, struct itimerspec setting)
{
    int fd = timerfd_create(clock, create_flags);
    MUST(fd >= 0 && timerfd_settime(fd, settime_flags, &setting, NULL) == 0);
    return fd;
}

static uint64_t ticks(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

static void expect_left(int fd, long least, long most, long interval)
{
    struct itimerspec left;
    EXPECT_EQ(timerfd_gettime(fd, &left), 0);
    EXPECT(left.it_value.tv_sec >= least && left.it_value.tv_sec <= most);
    EXPECT_EQ(left.it_interval.tv_sec, interval);
}

int main(int argc, char **argv)
{
    struct timespec now, pause = {.tv_nsec = 20000000};
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 7};
    test_init(argc, argv);
    MUST(clock_gettime(CLOCK_REALTIME, &now) == 0);
    int left = timer(CLOCK_MONOTONIC, TFD_CLOEXEC, 0, (struct itimerspec){{7, 0}, {5000, 0}});
    int absolute = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
                         (struct itimerspec){{0, 0}, {now.tv_sec + 4000, 5}});
    int off = timer(CLOCK_BOOTTIME, TFD_NONBLOCK, 0, (struct itimerspec){{3, 0}, {0, 0}});
    int fired = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, (struct itimerspec){{0, 0}, {0, 1}});
    int behind = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, (struct itimerspec){{9000, 0}, {0, 1}});
    int ticking = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, (struct itimerspec){{0, 1000000}, {0, 1000000}});
    int watched = timer(CLOCK_MONOTONIC, 0, 0, (struct itimerspec){{0, 0}, {0, 300000000}});
    int epoll = epoll_create1(0);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, watched, &event) == 0);
    nanosleep(&pause, NULL);
    test_wait();
    EXPECT_EQ(fcntl(left, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(left, F_GETFL) & O_NONBLOCK, 0);
    expect_left(left, 4900, 5000, 7);
    expect_left(absolute, 3900, 4000, 0);
    expect_left(off, 0, 0, 3);
    EXPECT(ticks(off) == 0 && errno == EAGAIN);
    EXPECT_EQ(ticks(fired), 1);
    EXPECT(ticks(fired) == 0 && errno == EAGAIN);
    EXPECT_EQ(ticks(behind), 1);
    expect_left(behind, 8900, 9000, 9000);
    EXPECT(ticks(ticking) >= 20);
    pause.tv_nsec = 5000000;
    nanosleep(&pause, NULL);
    EXPECT(ticks(ticking) >= 5);
    EXPECT(epoll_wait(epoll, &event, 1, 5000) == 1 && event.data.u64 == 7);
    EXPECT_EQ(ticks(watched), 1);
    return test_done();
}
