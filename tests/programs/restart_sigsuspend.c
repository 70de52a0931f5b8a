/* SPDX-License-Identifier: Apache-2.0
 * rt_sigsuspend ends for its own signal only; the mask from before it is back afterwards. */
#include "blocked.h"
#include <signal.h>

static volatile int handled;

static void on_signal(int signo)
{
    handled = signo;
}

static void block(void)
{
    uint64_t mask = 3ULL << (SIGUSR1 - 1), during = 1ULL << (SIGUSR2 - 1), after = 0;
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask) == 0);
    EXPECT(syscall(SYS_rt_sigsuspend, &during, sizeof during) == -1 && errno == EINTR);
    EXPECT_EQ(handled, SIGUSR1);
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &after, sizeof after) == 0);
    EXPECT_EQ(after, mask);
}

static void wake(void)
{
    MUST(syscall(SYS_tgkill, getpid(), blocked_tid, SIGUSR1) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    return blocked_main(&(struct blocked){SYS_rt_sigsuspend, block, wake});
}
