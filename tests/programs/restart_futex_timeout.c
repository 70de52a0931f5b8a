/* SPDX-License-Identifier: Apache-2.0
 * A futex wait with a relative timeout ends with ETIMEDOUT. */
#include "blocked.h"
#include <linux/futex.h>

static int word;

static void block(void)
{
    struct timespec time = {.tv_sec = BLOCKED_MS / 1000};
    int64_t since_ms = blocked_now_ms();
    EXPECT(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0) == -1 && errno == ETIMEDOUT);
    blocked_expect_elapsed(since_ms);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    return blocked_main(&(struct blocked){SYS_futex, block, NULL});
}
