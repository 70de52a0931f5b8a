/* SPDX-License-Identifier: Apache-2.0
 * The signal mask of each thread, the kernel's 32 and 33 included. */
#include "test.h"
#include <pthread.h>
#include <signal.h>

#define THREADS 4

static volatile int go;

static uint64_t mask_of(int number)
{
    return (0x8000000000004000ULL >> number) | (1ULL << (40 + number)) | (number == 2 ? 3ULL << 31 : 0);
}

static uint64_t mask_now(void)
{
    uint64_t mask = 0;
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof mask) == 0);
    return mask;
}

static void mask_set(int number)
{
    uint64_t mask = mask_of(number);
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask) == 0);
}

static void *thread(void *argument)
{
    int number = (int)(intptr_t)argument;
    mask_set(number);
    while (!go)
        usleep(1000);
    EXPECT_EQ(mask_now(), mask_of(number));
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    for (intptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread, (void *)(i + 1)) == 0);
    mask_set(0);
    test_wait();
    EXPECT_EQ(mask_now(), mask_of(0));
    go = 1;
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    return test_done();
}
