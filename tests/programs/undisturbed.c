/* SPDX-License-Identifier: Apache-2.0
 *
 * Notices whatever is done to it: one thread sends a stream of numbered signals, which two others take, one of them under
 * temporary masks; one is in a read that nothing may end, and one computes with all it has in registers.
 */
#include "test.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define PAUSE_NS 200000L

static atomic_int go, in_read;
static atomic_long sent, taken, sum, wrong;
static int pipe_fds[2];

static void take(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    sum += info->si_int;
    taken++;
}

static void mask_of(sigset_t *set, int how)
{
    sigemptyset(set);
    sigaddset(set, SIGRTMIN);
    MUST(pthread_sigmask(how, set, NULL) == 0);
}

static void *send(void *unused)
{
    const struct timespec pause = {0, PAUSE_NS};
    union sigval value;
    sigset_t set;
    mask_of(&set, SIG_BLOCK);
    while (!go) {
        value.sival_int = (int)(sent % 1000);
        while (sigqueue(getpid(), SIGRTMIN, value) != 0)
            MUST(errno == EAGAIN);
        sent++;
        nanosleep(&pause, NULL);
    }
    return unused;
}

/* Open to the signal only inside of ppoll. */
static void *wait_masked(void *unused)
{
    const struct timespec limit = {0, 10 * PAUSE_NS};
    sigset_t set, none;
    mask_of(&set, SIG_BLOCK);
    sigemptyset(&none);
    while (!go)
        ppoll(NULL, 0, &limit, &none);
    return unused;
}

static void *wait_open(void *unused)
{
    while (!go)
        poll(NULL, 0, 1);
    return unused;
}

static void *wait_for_ever(void *unused)
{
    sigset_t set;
    char byte = 0;
    mask_of(&set, SIG_BLOCK);
    in_read = 1;
    EXPECT(read(pipe_fds[0], &byte, 1) == 1 && byte == 'x' && go);
    return unused;
}

static void *compute(void *unused)
{
    sigset_t set;
    mask_of(&set, SIG_BLOCK);
    for (unsigned long n = 1; !go; n++) {
        unsigned long a = n, b = ~n, c = n * 3;
        unsigned char carry;
        double in = (double)n, out = 0;
        __asm__ volatile("movq %[in], %%xmm7\n mov $20000, %%ecx\n stc\n"
                         "1: inc %[a]\n dec %[b]\n lea 2(%[c]), %[c]\n dec %%ecx\n jnz 1b\n"
                         "setc %[carry]\n movq %%xmm7, %[out]\n"
                         : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [carry] "=r"(carry), [out] "=x"(out)
                         : [in] "x"(in)
                         : "ecx", "xmm7", "cc", "memory");
        wrong += a != n + 20000 || b != ~n - 20000 || c != n * 3 + 40000 || !carry || in != out;
    }
    return unused;
}

int main(int argc, char **argv)
{
    static void *(*const works[])(void *) = {wait_masked, wait_open, wait_for_ever, compute, send};
    enum { WORKS = sizeof works / sizeof *works };
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
    pthread_t threads[WORKS];
    long expected = 0;
    sigset_t set;
    test_init(argc, argv);
    MUST(pipe(pipe_fds) == 0 && sigaction(SIGRTMIN, &action, NULL) == 0);
    for (int i = 0; i < WORKS; i++)
        MUST(pthread_create(&threads[i], NULL, works[i], NULL) == 0);
    mask_of(&set, SIG_BLOCK);
    while (!in_read || taken < 10)
        sched_yield();
    test_wait();
    go = 1;
    MUST(write(pipe_fds[1], "x", 1) == 1);
    for (int i = 0; i < WORKS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    mask_of(&set, SIG_UNBLOCK);
    for (long n = 0; n < sent; n++)
        expected += n % 1000;
    EXPECT_EQ(taken, sent);
    EXPECT_EQ(sum, expected);
    EXPECT_EQ(wrong, 0);
    return test_done();
}
