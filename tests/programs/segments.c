/* SPDX-License-Identifier: Apache-2.0
 * FS and GS base of each thread; TLS of threads reached through FS. */
#include "test.h"
#include <asm/prctl.h>
#include <pthread.h>

#define THREADS 4

static volatile int go;
static __thread uint64_t tls = 1;
static uint64_t area[THREADS + 1];

static void gs_check(uint64_t number)
{
    uint64_t base = 0, fs = 0, word, self = (uint64_t)pthread_self();
    EXPECT(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0 && base == (uint64_t)&area[number]);
    EXPECT(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0 && fs == self);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(word));
    EXPECT_EQ(word, 1000 + number);
    EXPECT_EQ(tls, 5000 + number);
}

static void *run(void *argument)
{
    uint64_t number = (uint64_t)argument;
    tls = 5000 + number;
    area[number] = 1000 + number;
    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, &area[number]) == 0);
    while (number && !go)
        usleep(1000);
    return NULL;
}

static void *thread(void *argument)
{
    run(argument);
    gs_check((uint64_t)argument);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    for (uint64_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread, (void *)(i + 1)) == 0);
    run(NULL);
    test_wait();
    gs_check(0);
    go = 1;
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    return test_done();
}
