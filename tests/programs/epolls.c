/* SPDX-License-Identifier: Apache-2.0 */
/* epolls: interest lists with flags and data, a one-shot entry that has fired, one epoll inside another. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "test.h"

static int outer, inner;

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void signal_event(int fd)
{
    EXPECT_EQ(eventfd_write(fd, 1), 0);
}

static int next(int epoll, uint64_t *data)
{
    struct epoll_event event = {0};
    int count = epoll_wait(epoll, &event, 1, 0);
    *data = event.data.u64;
    return count;
}

int main(int argc, char **argv)
{
    uint64_t data;
    test_init(argc, argv);
    outer = epoll_create1(EPOLL_CLOEXEC);
    inner = epoll_create1(0);
    int level = eventfd(0, 0), edge = eventfd(0, 0), once = eventfd(1, 0), pipe_fds[2], copy;
    MUST(outer >= 0 && inner >= 0 && level >= 0 && edge >= 0 && once >= 0 && pipe(pipe_fds) == 0);
    add(outer, inner, EPOLLIN, 0xaaaabbbbccccddddULL);
    add(inner, once, EPOLLIN | EPOLLONESHOT, 3);
    MUST(next(inner, &data) == 1 && data == 3);
    add(inner, level, EPOLLIN | EPOLLEXCLUSIVE, 1);
    add(inner, edge, EPOLLIN | EPOLLET, 2);
    add(inner, pipe_fds[0], EPOLLIN | EPOLLRDHUP, 4);
    MUST((copy = dup(level)) >= 0);
    add(inner, copy, EPOLLIN, 5);
    test_wait();
    EXPECT_EQ(fcntl(outer, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(next(inner, &data), 0);
    EXPECT_EQ(next(outer, &data), 0);
    signal_event(edge);
    EXPECT(next(outer, &data) == 1 && data == 0xaaaabbbbccccddddULL);
    EXPECT(next(inner, &data) == 1 && data == 2);
    EXPECT_EQ(next(inner, &data), 0);
    EXPECT_EQ(write(pipe_fds[1], "x", 1), 1);
    EXPECT(next(inner, &data) == 1 && data == 4);
    EXPECT_EQ(read(pipe_fds[0], &data, 1), 1);
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 6};
    EXPECT_EQ(epoll_ctl(inner, EPOLL_CTL_MOD, once, &again), 0);
    EXPECT(next(inner, &data) == 1 && data == 6);
    EXPECT_EQ(epoll_ctl(inner, EPOLL_CTL_DEL, copy, NULL), 0);
    signal_event(level);
    EXPECT(next(inner, &data) == 1 && data == 1);
    return test_done();
}
