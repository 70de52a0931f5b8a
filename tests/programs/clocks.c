/* SPDX-License-Identifier: Apache-2.0
 * The clocks since boot never go back, by the vDSO and by the system call, in all threads and in children; what was set to
 * an absolute time of theirs ends then. How many ms of the real time they have missed goes to the file "missed".
 */
#include "test.h"
#include <pthread.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

enum { CLOCKS = 4, AHEAD_MS = 2000, FAR_S = 5000, LATE_MS = 50 };

static const clockid_t clocks[CLOCKS] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW,
                                         CLOCK_MONOTONIC_COARSE};
static volatile int go;

static int64_t ms(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t by_vdso(clockid_t clock)
{
    struct timespec t;
    MUST(clock_gettime(clock, &t) == 0);
    return ms(t);
}

static int64_t by_kernel(clockid_t clock)
{
    struct timespec t;
    MUST(syscall(SYS_clock_gettime, clock, &t) == 0);
    return ms(t);
}

/* The vDSO and the kernel tell the same time. */
static void expect_agreement(clockid_t clock)
{
    int64_t first = by_vdso(clock), between = by_kernel(clock), last = by_vdso(clock);
    EXPECT(first <= between && between <= last);
}

/* Sleeps until a time that lies after the checkpoint: its end is what the clock says there. */
static void *sleeper(void *end)
{
    struct timespec until = {.tv_sec = *(int64_t *)end / 1000, .tv_nsec = *(int64_t *)end % 1000 * 1000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        continue;
    EXPECT(by_vdso(CLOCK_MONOTONIC) >= *(int64_t *)end);
    return NULL;
}

static void *reader(void *before)
{
    while (!go)
        usleep(1000);
    expect_agreement(CLOCK_MONOTONIC);
    EXPECT(by_vdso(CLOCK_MONOTONIC) >= *(int64_t *)before);
    return NULL;
}

static void tell_missed(int64_t missed)
{
    FILE *file = fopen(test_path("missed"), "w");
    MUST(file != NULL && fprintf(file, "%lld\n", (long long)missed) > 0 && fclose(file) == 0);
}

int main(int argc, char **argv)
{
    int64_t before[CLOCKS], end, real = by_vdso(CLOCK_REALTIME);
    pthread_t threads[2];
    uint64_t ticks;
    int status;
    test_init(argc, argv);
    MUST(pthread_create(&threads[0], NULL, reader, &before[0]) == 0);
    for (int i = 0; i < CLOCKS; i++)
        before[i] = by_vdso(clocks[i]);
    end = before[0] + AHEAD_MS;
    MUST(pthread_create(&threads[1], NULL, sleeper, &end) == 0);
    struct itimerspec setting = {.it_value = {end / 1000, end % 1000 * 1000000}};
    int timer = timerfd_create(CLOCK_MONOTONIC, 0), boot = timerfd_create(CLOCK_BOOTTIME, 0);
    MUST(timer >= 0 && timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, NULL) == 0);
    struct timespec far = {.tv_sec = before[1] / 1000 + FAR_S};
    setting.it_value = far;
    MUST(boot >= 0 && timerfd_settime(boot, TFD_TIMER_ABSTIME, &setting, NULL) == 0);
    test_ready();
    int64_t last = by_vdso(CLOCK_MONOTONIC);
    while (!test_may_go()) {
        usleep(10000);
        int64_t now = by_vdso(CLOCK_MONOTONIC);
        EXPECT(now >= last);
        last = now;
    }
    tell_missed(by_vdso(CLOCK_REALTIME) - real - (by_vdso(CLOCK_MONOTONIC) - before[0]));
    for (int i = 0; i < CLOCKS; i++) {
        EXPECT(by_vdso(clocks[i]) >= before[i]);
        expect_agreement(clocks[i]);
    }
    int64_t least = by_vdso(CLOCK_BOOTTIME);
    EXPECT(timerfd_gettime(boot, &setting) == 0);
    int64_t most = by_vdso(CLOCK_BOOTTIME) + 1, left = ms(setting.it_value) + 1, ends = ms(far);
    /* It may end a moment too late, never too early. */
    EXPECT(least + left <= ends + LATE_MS && ends <= most + left);
    EXPECT(read(timer, &ticks, sizeof ticks) == sizeof ticks && ticks == 1);
    EXPECT(by_vdso(CLOCK_MONOTONIC) >= end);
    go = 1;
    EXPECT(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    pid_t child = fork();
    if (child == 0)
        _exit(by_vdso(CLOCK_MONOTONIC) >= end && by_kernel(CLOCK_MONOTONIC) >= end ? 0 : 1);
    EXPECT(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    return test_done();
}
