/* SPDX-License-Identifier: Apache-2.0
 * rt_sigtimedwait without a timeout: the signal, and no EINTR. */
#include "blocked.h"
#include <signal.h>

static void block(void)
{
    uint64_t wanted = 1ULL << (SIGUSR1 - 1);
    EXPECT_EQ(syscall(SYS_rt_sigtimedwait, &wanted, NULL, NULL, sizeof wanted), SIGUSR1);
}

static void wake(void)
{
    MUST(syscall(SYS_tgkill, getpid(), blocked_tid, SIGUSR1) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    sigset_t all;
    sigfillset(&all);
    MUST(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
    return blocked_main(&(struct blocked){SYS_rt_sigtimedwait, block, wake});
}
