/* SPDX-License-Identifier: Apache-2.0
 * Robust mutexes: whose owner ends after the restore go to the next one with EOWNERDEAD; far apart in memory. */
#include "test.h"
#include <pthread.h>

#define MUTEXES 40
#define APART   40960

static volatile int go, held;
static char *area;

static pthread_mutex_t *mutex(int number)
{
    return (pthread_mutex_t *)(area + (size_t)number * APART);
}

static void *owner(void *unused)
{
    for (int i = 0; i < MUTEXES; i++)
        MUST(pthread_mutex_lock(mutex(i)) == 0);
    for (int i = 1; i < MUTEXES; i += 2)
        MUST(pthread_mutex_unlock(mutex(i)) == 0);
    held = 1;
    while (!go)
        usleep(1000);
    return unused;
}

static void *waiter(void *result)
{
    *(int *)result = pthread_mutex_lock(mutex(0));
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_mutexattr_t attributes;
    pthread_t threads[2];
    int waited = -1;
    test_init(argc, argv);
    MUST(pthread_mutexattr_init(&attributes) == 0);
    MUST(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    MUST((area = calloc(MUTEXES, APART)) != NULL);
    for (int i = 0; i < MUTEXES; i++)
        MUST(pthread_mutex_init(mutex(i), &attributes) == 0);
    MUST(pthread_create(&threads[0], NULL, owner, NULL) == 0);
    while (!held)
        usleep(1000);
    MUST(pthread_create(&threads[1], NULL, waiter, &waited) == 0);
    test_wait();
    go = 1;
    MUST(pthread_join(threads[0], NULL) == 0);
    MUST(pthread_join(threads[1], NULL) == 0);
    EXPECT_EQ(waited, EOWNERDEAD);
    for (int i = 1; i < MUTEXES; i++)
        EXPECT_EQ(pthread_mutex_trylock(mutex(i)), i % 2 ? 0 : EOWNERDEAD);
    return test_done();
}
