/* SPDX-License-Identifier: Apache-2.0
 *
 * signals COUNT MODE: counts COUNT queued SIGRTMIN, and adds up what they carry. MODE "poll": the signals
 * interrupt a poll; "suspend": two threads wait for them under a temporary mask alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_long count, sum, faults;
static long wanted;

static void handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_code != SI_QUEUE || info->si_pid != getppid())
        faults++;
    sum += info->si_value.sival_int;
    count++;
}

static void *suspend(void *arg)
{
    sigset_t mask;

    (void)arg;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    sigdelset(&mask, SIGRTMIN);
    for (;;)
        if (sigsuspend(&mask) != -1 || errno != EINTR)
            faults++;
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    struct timespec pause = {0, 1000000};
    time_t last = time(NULL) + 30;
    pthread_t thread;

    if (argc != 3)
        return 2;
    wanted = atol(argv[1]);
    sigaction(SIGRTMIN, &action, NULL);
    if (!strcmp(argv[2], "suspend")) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        pthread_create(&thread, NULL, suspend, NULL);
        pthread_create(&thread, NULL, suspend, NULL);
    }
    puts("ready");
    fflush(stdout);
    while (count < wanted && time(NULL) < last)
        strcmp(argv[2], "poll") ? nanosleep(&pause, NULL) : poll(NULL, 0, 5);
    printf("%ld %ld %ld\n", count, sum, faults);
    return 0;
}
