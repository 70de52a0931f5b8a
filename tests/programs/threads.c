/* SPDX-License-Identifier: Apache-2.0
 * 64 threads with small stacks keep their tid, their TLS and what is on their stack, and hand a token round. */
#include "test.h"
#include <limits.h>
#include <pthread.h>

#define THREADS 64
#define ROUNDS  20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static int turn = -1, passed;
static __thread int tls;

static void *thread(void *argument)
{
    int number = (int)(intptr_t)argument;
    volatile uint64_t stack[512];
    pid_t tid = (pid_t)syscall(SYS_gettid);
    tls = number * 3;
    for (int i = 0; i < 512; i++)
        stack[i] = (uint64_t)number << 32 | i;
    MUST(pthread_mutex_lock(&lock) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        while (turn % THREADS != number)
            MUST(pthread_cond_wait(&moved, &lock) == 0);
        turn++;
        passed++;
        MUST(pthread_cond_broadcast(&moved) == 0);
    }
    EXPECT_EQ(syscall(SYS_gettid), tid);
    EXPECT_EQ(tls, number * 3);
    for (int i = 0; i < 512; i++)
        EXPECT(stack[i] == ((uint64_t)number << 32 | i));
    MUST(pthread_mutex_unlock(&lock) == 0);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    pthread_attr_t small;
    test_init(argc, argv);
    MUST(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 65536) == 0);
    for (intptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], &small, thread, (void *)i) == 0);
    test_wait();
    MUST(pthread_mutex_lock(&lock) == 0);
    turn = 0;
    MUST(pthread_cond_broadcast(&moved) == 0);
    MUST(pthread_mutex_unlock(&lock) == 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    EXPECT_EQ(passed, THREADS * ROUNDS);
    return test_done();
}
