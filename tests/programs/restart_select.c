/* SPDX-License-Identifier: Apache-2.0
 * select with a timeout that does not run out; the kernel may write what is left into it. */
#include "blocked.h"
#include <sys/select.h>

static int ends[2];

static void block(void)
{
    struct timeval time = {.tv_sec = 60};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    EXPECT_EQ(syscall(SYS_select, ends[0] + 1, &set, NULL, NULL, &time), 1);
    EXPECT(FD_ISSET(ends[0], &set));
    EXPECT(time.tv_sec <= 60);
}

static void wake(void)
{
    MUST(write(ends[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    return blocked_main(&(struct blocked){SYS_select, block, wake});
}
