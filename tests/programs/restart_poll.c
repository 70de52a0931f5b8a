/* SPDX-License-Identifier: Apache-2.0
 * poll without a timeout. */
#include "blocked.h"
#include <poll.h>

static int ends[2];

static void block(void)
{
    struct pollfd fd = {.fd = ends[0], .events = POLLIN};
    EXPECT_EQ(syscall(SYS_poll, &fd, 1, -1), 1);
    EXPECT_EQ(fd.revents, POLLIN);
}

static void wake(void)
{
    MUST(write(ends[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    return blocked_main(&(struct blocked){SYS_poll, block, wake});
}
