/* SPDX-License-Identifier: Apache-2.0
 * Threads wait on futexes in missing pages, of every kind, and are woken by others for whom the same pages are missing:
 * the kernel finds both in the same place. The mutex is taken, contended, and its owner's death told. */
#include "memory.h"
#include <linux/futex.h>
#include <pthread.h>

#define WORDS 32
#define STEP  17 /* pages from one word to the next: each in a chunk of its own, at another place in it */

static char *area;
static pthread_barrier_t gate;
static int wait_ops[] = {FUTEX_WAIT, FUTEX_WAIT_PRIVATE};

static uint32_t *word(size_t i)
{
    return (uint32_t *)(area + i * STEP * PAGE + 64);
}

static void *waiter(void *argument)
{
    size_t i = (size_t)argument;
    pthread_barrier_wait(&gate);
    while (__atomic_load_n(word(i) + 1, __ATOMIC_SEQ_CST) == 0) {
        long result = syscall(SYS_futex, word(i), wait_ops[i % 2], 1000 + (uint32_t)i, NULL);
        if (result != 0 && errno != EAGAIN && errno != EINTR)
            return (void *)1;
    }
    return NULL;
}

static pthread_mutex_t *mutex(size_t i)
{
    return (pthread_mutex_t *)(area + (WORDS + i) * STEP * PAGE);
}

static void *locker(void *argument)
{
    size_t i = (size_t)argument;
    pthread_barrier_wait(&gate);
    int result = pthread_mutex_lock(mutex(i));
    return (void *)(size_t)(result != EOWNERDEAD);
}

/* Holds a robust mutex from before the checkpoint, and ends without a word. */
static void *owner(void *argument)
{
    MUST(pthread_mutex_lock(mutex((size_t)argument)) == 0);
    pthread_barrier_wait(&gate);
    test_wait_go();
    return NULL;
}

static void wake(size_t i)
{
    __atomic_store_n(word(i) + 1, 1, __ATOMIC_SEQ_CST);
    /* For who has looked at the word beside it, and does not wait yet. */
    __atomic_store_n(word(i), 0, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word(i), i % 2 ? FUTEX_WAKE_PRIVATE : FUTEX_WAKE, INT32_MAX);
}

int main(int argc, char **argv)
{
    pthread_t waiters[WORDS], locks[2], owners[2];
    pthread_mutexattr_t robust;
    void *wrong;
    test_init(argc, argv);
    area = memory_map((WORDS + 3) * STEP, 0);
    memory_fill(area, (WORDS + 3) * STEP, 1);
    MUST(pthread_barrier_init(&gate, NULL, 3) == 0);
    MUST(pthread_mutexattr_init(&robust) == 0 &&
         pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0);
    for (size_t i = 0; i < WORDS; i++)
        memcpy(word(i), (uint32_t[]){1000 + (uint32_t)i, 0}, 8);
    for (size_t i = 0; i < 2; i++) {
        MUST(pthread_mutex_init(mutex(i), &robust) == 0);
        MUST(pthread_create(&owners[i], NULL, owner, (void *)i) == 0);
    }
    pthread_barrier_wait(&gate);
    test_wait();
    MUST(pthread_barrier_destroy(&gate) == 0 && pthread_barrier_init(&gate, NULL, WORDS + 3) == 0);
    for (size_t i = 0; i < WORDS; i++)
        MUST(pthread_create(&waiters[i], NULL, waiter, (void *)i) == 0);
    for (size_t i = 0; i < 2; i++)
        MUST(pthread_create(&locks[i], NULL, locker, (void *)i) == 0);
    pthread_barrier_wait(&gate);
    for (size_t i = 0; i < WORDS; i++)
        wake(i);
    for (size_t i = 0; i < WORDS; i++) {
        MUST(pthread_join(waiters[i], &wrong) == 0);
        EXPECT(wrong == NULL);
    }
    for (size_t i = 0; i < 2; i++) {
        MUST(pthread_join(locks[i], &wrong) == 0 && pthread_join(owners[i], NULL) == 0);
        EXPECT(wrong == NULL);
    }
    return test_done();
}
