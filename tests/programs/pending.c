/* SPDX-License-Identifier: Apache-2.0
 * Signals that wait: for the process and for one thread, real-time ones queued in order, siginfo as it was sent. */
#include "test.h"
#include <pthread.h>
#include <signal.h>

#define QUEUED 20

static volatile int go;
static volatile pid_t thread_tid;

static void expect_next(int signo, int code, int value)
{
    siginfo_t info = {0};
    struct timespec none = {0};
    uint64_t all = ~0ULL;
    /* Not glibc's sigtimedwait: that turns SI_TKILL into SI_USER. */
    int got = (int)syscall(SYS_rt_sigtimedwait, &all, &info, &none, sizeof all);
    if (got != signo || info.si_code != code || (code == SI_QUEUE && info.si_value.sival_int != value))
        test_differs("signal %d code %d value %d instead of signal %d code %d value %d", got, info.si_code,
                     info.si_value.sival_int, signo, code, value);
    else if (info.si_pid != getpid() || info.si_uid != getuid())
        test_differs("signal %d comes from pid %d uid %d", got, info.si_pid, info.si_uid);
}

static void expect_none(void)
{
    sigset_t pending;
    EXPECT(sigpending(&pending) == 0 && sigisemptyset(&pending));
}

static void queue_to_thread(int signo, int value)
{
    siginfo_t info = {.si_signo = signo, .si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), thread_tid, signo, &info) == 0);
}

static void *thread(void *unused)
{
    thread_tid = (pid_t)syscall(SYS_gettid);
    while (!go)
        usleep(1000);
    expect_next(SIGUSR2, SI_TKILL, 0);
    for (int i = 0; i < QUEUED; i++)
        expect_next(SIGRTMIN + 3, SI_QUEUE, 100 + i);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t other;
    sigset_t all;
    test_init(argc, argv);
    sigfillset(&all);
    MUST(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
    MUST(pthread_create(&other, NULL, thread, NULL) == 0);
    while (!thread_tid)
        usleep(1000);
    MUST(kill(getpid(), SIGUSR1) == 0);
    MUST(kill(getpid(), SIGUSR1) == 0); /* a standard signal waits once */
    for (int i = 0; i < QUEUED; i++) {
        MUST(sigqueue(getpid(), SIGRTMIN + 5, (union sigval){.sival_int = i}) == 0);
        queue_to_thread(SIGRTMIN + 3, 100 + i);
    }
    MUST(syscall(SYS_tgkill, getpid(), thread_tid, SIGUSR2) == 0);
    test_wait();
    expect_next(SIGUSR1, SI_USER, 0);
    for (int i = 0; i < QUEUED; i++)
        expect_next(SIGRTMIN + 5, SI_QUEUE, i);
    expect_none();
    go = 1;
    MUST(pthread_join(other, NULL) == 0);
    return test_done();
}
