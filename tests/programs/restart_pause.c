/* SPDX-License-Identifier: Apache-2.0
 * pause ends for its signal only. */
#include "blocked.h"
#include <signal.h>

static volatile int handled;

static void on_signal(int signo)
{
    handled = signo;
}

static void block(void)
{
    EXPECT(syscall(SYS_pause) == -1 && errno == EINTR);
    EXPECT_EQ(handled, SIGUSR1);
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
    return blocked_main(&(struct blocked){SYS_pause, block, wake});
}
