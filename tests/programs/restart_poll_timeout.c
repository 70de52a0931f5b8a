/* SPDX-License-Identifier: Apache-2.0
 * poll with a timeout of which a part has passed. */
#include "blocked.h"
#include <poll.h>

static int ends[2];

static void block(void)
{
    struct pollfd fd = {.fd = ends[0], .events = POLLIN};
    int64_t since_ms = blocked_now_ms();
    EXPECT_EQ(syscall(SYS_poll, &fd, 1, BLOCKED_MS), 0);
    blocked_expect_elapsed(since_ms);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    return blocked_main(&(struct blocked){SYS_poll, block, NULL});
}
