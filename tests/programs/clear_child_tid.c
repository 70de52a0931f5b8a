/* SPDX-License-Identifier: Apache-2.0
 * Threads that end the moment they run again can be joined: the kernel clears their tid and wakes the joiner. */
#include "test.h"
#include <pthread.h>

#define THREADS 16

static volatile int go;

static void *thread(void *argument)
{
    while (!go)
        ; /* no syscall: the first thing it does is to end */
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    for (intptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
    test_wait();
    go = 1;
    for (intptr_t i = 0; i < THREADS; i++) {
        void *result;
        MUST(pthread_join(threads[i], &result) == 0);
        EXPECT_EQ((intptr_t)result, i);
    }
    return test_done();
}
