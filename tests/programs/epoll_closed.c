/* SPDX-License-Identifier: Apache-2.0
 *
 * epoll: entries whose fd has been closed or is another file by now, while what is watched lives on under another
 * number or in a child; one-shot entries that have fired, which tell of nothing, not even of a hang-up.
 */
#include "tree.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int epoll, child_only;

static void add(int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* The data of the one event that there is, 0 for none. */
static uint64_t next(void)
{
    struct epoll_event events[4];
    int count = epoll_wait(epoll, events, 4, 0);
    EXPECT(count <= 1);
    return count == 1 ? events[0].data.u64 : 0;
}

static int serve(char asked, void *argument)
{
    uint64_t value;
    (void)argument;
    CHECK(asked == 'w' ? eventfd_write(child_only, 1) == 0 : eventfd_read(child_only, &value) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    int closed[2], reused[2], fired[2], pair[2];
    char byte;
    test_init(argc, argv);
    MUST((epoll = epoll_create1(0)) >= 0 && pipe(closed) == 0 && pipe(reused) == 0);
    MUST((child_only = eventfd(0, 0)) >= 0);
    add(closed[0], EPOLLIN, 1), add(reused[0], EPOLLIN, 2), add(child_only, EPOLLIN, 3);
    struct child child = tree_fork(serve, NULL);
    MUST(close(child_only) == 0 && pipe(fired) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    int alive = dup(closed[0]), other = dup(reused[0]), far = dup2(closed[1], 700);
    MUST(far == 700 && alive >= 0 && other >= 0);
    add(far, EPOLLOUT | EPOLLET, 6);
    MUST(close(far) == 0 && close(closed[0]) == 0);
    MUST(next() == 6 && dup2(fired[0], reused[0]) == reused[0]);
    add(fired[1], EPOLLOUT | EPOLLONESHOT, 4);
    MUST(next() == 4);
    add(pair[0], EPOLLOUT | EPOLLONESHOT | EPOLLET, 5);
    MUST(next() == 5 && next() == 0);
    test_wait();
    uint64_t first = next();
    EXPECT(first == 0 || first == 6);
    EXPECT(write(closed[1], "x", 1) == 1);
    EXPECT(next() == 1 && read(alive, &byte, 1) == 1);
    EXPECT(write(reused[1], "x", 1) == 1 && next() == 2 && read(other, &byte, 1) == 1);
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT_EQ(next(), 3);
    EXPECT_EQ(tree_ask(&child, 'r'), 0);
    EXPECT(close(fired[0]) == 0 && close(reused[0]) == 0 && close(pair[1]) == 0);
    EXPECT_EQ(next(), 0);
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 7};
    EXPECT(epoll_ctl(epoll, EPOLL_CTL_MOD, fired[1], &again) == 0 && next() == 7);
    again.data.u64 = 8;
    EXPECT(epoll_ctl(epoll, EPOLL_CTL_MOD, pair[0], &again) == 0 && next() == 8);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
