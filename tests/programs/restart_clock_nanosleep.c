/* SPDX-License-Identifier: Apache-2.0
 * Sleeping until a time ends at that time, or at once when it has passed. */
#include "blocked.h"

static void block(void)
{
    struct timespec until;
    MUST(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    int64_t since_ms = blocked_now_ms();
    until.tv_sec += BLOCKED_MS / 1000;
    EXPECT_EQ(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
    blocked_expect_elapsed(since_ms);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    return blocked_main(&(struct blocked){SYS_clock_nanosleep, block, NULL});
}
