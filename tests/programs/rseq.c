/* SPDX-License-Identifier: Apache-2.0
 * Restartable sequences: registered still, in each thread, where glibc put them, and cpu_id is kept up to date. */
#include "test.h"
#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>

#define THREADS 4

static volatile int go;

static void check(void)
{
    volatile struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    /* EBUSY: already registered with just this address, length and signature. */
    long again = syscall(SYS_rseq, area, sizeof *area, 0, RSEQ_SIG);
    EXPECT(again == -1 && errno == EBUSY);
    for (int cpu = 0; cpu < 2; cpu++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) == 0)
            EXPECT_EQ(area->cpu_id, cpu);
    }
}

static void *thread(void *unused)
{
    while (!go)
        usleep(1000);
    check();
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    MUST(__rseq_size > 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread, NULL) == 0);
    test_wait();
    check();
    go = 1;
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    return test_done();
}
