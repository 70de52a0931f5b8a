/* SPDX-License-Identifier: Apache-2.0
 * A futex wait without a timeout; EAGAIN is an answer of the kernel's own when the word has changed. */
#include "blocked.h"
#include <linux/futex.h>

static volatile int word;

static void block(void)
{
    while (word == 0) {
        long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        EXPECT(result == 0 || errno == EAGAIN);
    }
}

static void wake(void)
{
    word = 1;
    MUST(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) >= 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    return blocked_main(&(struct blocked){SYS_futex, block, wake});
}
