/* SPDX-License-Identifier: Apache-2.0 */
/* signal_owner: who gets a signal when an fd is ready (F_SETOWN, F_SETSIG, O_ASYNC). */
#define _GNU_SOURCE
#include <signal.h>
#include "test.h"

static volatile sig_atomic_t got;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    got = info->si_fd;
}

int main(int argc, char **argv)
{
    int ends[2];
    struct f_owner_ex owner;
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    test_init(argc, argv);
    MUST(pipe(ends) == 0 && sigaction(SIGRTMIN + 3, &action, NULL) == 0);
    MUST(fcntl(ends[0], F_SETOWN, getpid()) == 0 && fcntl(ends[0], F_SETSIG, SIGRTMIN + 3) == 0);
    MUST(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
    test_wait();
    EXPECT_EQ(fcntl(ends[0], F_GETFL), O_ASYNC | O_NONBLOCK);
    EXPECT(fcntl(ends[0], F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PID && owner.pid == getpid());
    EXPECT_EQ(fcntl(ends[0], F_GETSIG), SIGRTMIN + 3);
    EXPECT_EQ(write(ends[1], "x", 1), 1);
    struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < 500 && !got; i++)
        nanosleep(&pause, NULL);
    EXPECT_EQ(got, ends[0]);
    return test_done();
}
