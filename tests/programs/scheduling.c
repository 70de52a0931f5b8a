/* SPDX-License-Identifier: Apache-2.0 */
/* scheduling: nice, policy, CPUs, I/O priority and timer slack of two threads. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include "test.h"

enum { IOPRIO_BEST_EFFORT_6 = 2 << 13 | 6, IOPRIO_IDLE = 3 << 13 };
static pthread_barrier_t barrier;

static long ioprio(void)
{
    return syscall(SYS_ioprio_get, 1, 0);
}

static void *background(void *unused)
{
    struct sched_param zero = {0};
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    MUST(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &zero) == 0);
    MUST(setpriority(PRIO_PROCESS, gettid(), 11) == 0);
    MUST(sched_setaffinity(0, sizeof first, &first) == 0);
    MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT_6) == 0);
    MUST(prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0) == 0);
    pthread_barrier_wait(&barrier);
    test_wait_go();
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH | SCHED_RESET_ON_FORK);
    EXPECT_EQ(getpriority(PRIO_PROCESS, gettid()), 11);
    cpu_set_t now;
    EXPECT(sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &first));
    EXPECT_EQ(ioprio(), IOPRIO_BEST_EFFORT_6);
    EXPECT_EQ(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), 123456);
    return unused;
}

static void *idle(void *unused)
{
    struct sched_param zero = {0};
    MUST(sched_setscheduler(0, SCHED_IDLE, &zero) == 0);
    MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO_IDLE) == 0);
    pthread_barrier_wait(&barrier);
    test_wait_go();
    EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
    EXPECT_EQ(ioprio(), IOPRIO_IDLE);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    cpu_set_t before, after;
    struct sched_param two = {.sched_priority = 2}, now;
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 3) == 0);
    MUST(pthread_create(&threads[0], NULL, background, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, idle, NULL) == 0);
    pthread_barrier_wait(&barrier);
    MUST(sched_setscheduler(0, SCHED_RR, &two) == 0);
    MUST(sched_getaffinity(0, sizeof before, &before) == 0);
    test_wait();
    EXPECT_EQ(sched_getscheduler(0), SCHED_RR);
    EXPECT(sched_getparam(0, &now) == 0 && now.sched_priority == 2);
    EXPECT(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    return test_done();
}
