/* SPDX-License-Identifier: Apache-2.0
 * ppoll with a mask of its own: the thread's mask is back afterwards. */
#include "blocked.h"
#include <poll.h>
#include <signal.h>

static int ends[2];

static void block(void)
{
    struct pollfd fd = {.fd = ends[0], .events = POLLIN};
    uint64_t mask = 1ULL << (SIGUSR1 - 1), during = 1ULL << (SIGUSR2 - 1), after = 0;
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask) == 0);
    EXPECT_EQ(syscall(SYS_ppoll, &fd, 1, NULL, &during, sizeof during), 1);
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &after, sizeof after) == 0);
    EXPECT_EQ(after, mask);
}

static void wake(void)
{
    MUST(write(ends[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    return blocked_main(&(struct blocked){SYS_ppoll, block, wake});
}
