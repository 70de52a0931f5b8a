/* SPDX-License-Identifier: Apache-2.0
 * epoll_wait without a timeout. */
#include "blocked.h"
#include <sys/epoll.h>

static int ends[2], epoll_fd;

static void block(void)
{
    struct epoll_event event = {0};
    EXPECT_EQ(syscall(SYS_epoll_wait, epoll_fd, &event, 1, -1), 1);
    EXPECT_EQ(event.events, EPOLLIN);
    EXPECT_EQ(event.data.u64, 4711);
}

static void wake(void)
{
    MUST(write(ends[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 4711};
    MUST(pipe(ends) == 0 && (epoll_fd = epoll_create1(0)) >= 0);
    MUST(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ends[0], &event) == 0);
    return blocked_main(&(struct blocked){SYS_epoll_wait, block, wake});
}
