/* SPDX-License-Identifier: Apache-2.0 */
/* POSIX timers: ids with gaps, time left, values, a thread as target, CPU time, a signal that waits blocked. */
#include "test.h"
#include <pthread.h>
#include <signal.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile pid_t worker;
static volatile int fired, by_worker, finish, value_seen;

static void on_timer(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    value_seen = info->si_value.sival_int;
    by_worker += gettid() == worker;
    fired++;
}

static void *work(void *unused)
{
    worker = gettid();
    while (!finish)
        usleep(1000);
    return unused;
}

/* The system call: the library would hide the kernel's ids behind pointers. */
static int make(clockid_t clock, int notify, int signal, int value, struct itimerspec setting)
{
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_int = value};
    int id = -1;
    event.sigev_notify_thread_id = worker;
    MUST(syscall(SYS_timer_create, clock, &event, &id) == 0);
    MUST(syscall(SYS_timer_settime, id, 0, &setting, NULL) == 0);
    return id;
}

static struct itimerspec left(int id)
{
    struct itimerspec setting = {{-1, 0}, {-1, 0}};
    EXPECT_EQ(syscall(SYS_timer_gettime, id, &setting), 0);
    return setting;
}

static int waiting(int number)
{
    sigset_t pending;
    return sigpending(&pending) == 0 && sigismember(&pending, number);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct timespec pause = {.tv_nsec = 5000000}, none = {0, 0};
    struct itimerspec off = {{0, 0}, {0, 0}}, soon = {{0, 0}, {0, 1}}, often = {{0, 3000000}, {0, 3000000}};
    pthread_t thread;
    siginfo_t info;
    sigset_t blocked;
    test_init(argc, argv);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 1);
    sigaddset(&blocked, SIGRTMIN + 2);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0 && sigaction(SIGRTMIN + 3, &action, NULL) == 0);
    MUST(pthread_create(&thread, NULL, work, NULL) == 0);
    while (!worker)
        usleep(100);
    int gone = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, off),
        idle = make(CLOCK_REALTIME, SIGEV_SIGNAL, 34, 1, off);
    MUST(syscall(SYS_timer_delete, gone) == 0);
    int once = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 11, soon);
    int far = make(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, (struct itimerspec){{7, 0}, {5000, 0}});
    int cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGALRM, 3, (struct itimerspec){{0, 0}, {900, 0}});
    int ticking = make(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, SIGRTMIN + 3, 42, often);
    int queued =
        make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, 22, (struct itimerspec){{6000, 0}, {0, 1}});
    while (!waiting(SIGRTMIN + 1) || !waiting(SIGRTMIN + 2))
        usleep(100);
    test_wait();
    EXPECT(left(idle).it_value.tv_sec == 0 && left(idle).it_interval.tv_sec == 0);
    EXPECT(left(once).it_value.tv_sec == 0 && left(once).it_value.tv_nsec == 0);
    EXPECT(left(far).it_value.tv_sec > 4900 && left(far).it_value.tv_sec <= 5000);
    EXPECT_EQ(left(far).it_interval.tv_sec, 7);
    EXPECT(left(cpu).it_value.tv_sec >= 890 && left(cpu).it_value.tv_sec < 900);
    EXPECT_EQ(left(ticking).it_interval.tv_nsec, 3000000);
    EXPECT(left(queued).it_value.tv_sec > 5900 && left(queued).it_interval.tv_sec == 6000);
    EXPECT(syscall(SYS_timer_gettime, gone, &off) < 0 && errno == EINVAL);
    EXPECT_EQ(sigtimedwait(&blocked, &info, &none), SIGRTMIN + 1);
    EXPECT(info.si_value.sival_int == 11 && info.si_code == SI_TIMER);
    EXPECT_EQ(sigtimedwait(&blocked, &info, &none), SIGRTMIN + 2);
    EXPECT_EQ(info.si_value.sival_int, 22);
    EXPECT(sigtimedwait(&blocked, &info, &none) < 0 && errno == EAGAIN);
    int before = by_worker;
    for (int i = 0; i < 400 && by_worker == before; i++)
        nanosleep(&pause, NULL);
    EXPECT(by_worker > before && by_worker == fired && value_seen == 42);
    EXPECT_EQ(syscall(SYS_timer_delete, ticking), 0);
    finish = 1;
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    return test_done();
}
