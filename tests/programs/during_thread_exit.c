/* SPDX-License-Identifier: Apache-2.0
 * Threads that have waited on stacks of their own end one after the other while pages are missing, and new ones
 * take their place; each reads its share of the memory. */
#include "memory.h"
#include <pthread.h>

#define THREADS 32
#define SHARE   256

static volatile int go;
static char *area;

static void *thread(void *argument)
{
    size_t first = (size_t)argument * SHARE;
    volatile char stack[200000];
    for (size_t i = 0; i < sizeof stack; i += 1000)
        stack[i] = (char)(first / SHARE);
    while (!go)
        usleep(1000);
    for (size_t i = 0; i < sizeof stack; i += 1000)
        if (stack[i] != (char)(first / SHARE))
            return (void *)-1;
    return (void *)memory_wrong_from(area + first * PAGE, first, SHARE, 1);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    void *wrong;
    test_init(argc, argv);
    area = memory_map(THREADS * SHARE, 0);
    memory_fill(area, THREADS * SHARE, 1);
    for (size_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
    test_wait();
    go = 1;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < THREADS; i++) {
            MUST(pthread_join(threads[i], &wrong) == 0);
            EXPECT(wrong == NULL);
            if (round == 0)
                MUST(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
        }
    }
    return test_done();
}
