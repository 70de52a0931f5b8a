/* SPDX-License-Identifier: Apache-2.0
 * Relative sleeping goes on. */
#include "blocked.h"

static void block(void)
{
    struct timespec time = {.tv_sec = BLOCKED_MS / 1000};
    int64_t since_ms = blocked_now_ms();
    EXPECT_EQ(syscall(SYS_nanosleep, &time, NULL), 0);
    blocked_expect_elapsed(since_ms);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    return blocked_main(&(struct blocked){SYS_nanosleep, block, NULL});
}
