/* SPDX-License-Identifier: Apache-2.0
 * While pages arrive, 16 threads read every word of them, each from another word on: a page is there as a whole or not
 * at all. */
#include "memory.h"
#include <pthread.h>

#define PAGES   2048
#define THREADS 16
#define WORDS   512

static uint64_t *area;
static volatile int go;

/* All in the same order, so that they meet on every page; the order jumps, so that no chunk is read through. */
static size_t nth(size_t i)
{
    return i * 1021 % PAGES;
}

static void *reader(void *argument)
{
    size_t from = (size_t)argument * (WORDS / THREADS), wrong = 0;
    while (!go)
        usleep(1000);
    for (size_t i = 0; i < PAGES; i++) {
        volatile uint64_t *page = area + nth(i) * WORDS;
        for (size_t n = 0; n < WORDS; n++) {
            size_t word = (from + n) % WORDS;
            wrong += page[word] != memory_mix(nth(i) * WORDS + word + 1);
        }
    }
    return (void *)wrong;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    for (size_t i = 0; i < PAGES * WORDS; i++)
        area[i] = memory_mix(i + 1);
    for (size_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, reader, (void *)i) == 0);
    test_wait();
    go = 1;
    for (size_t i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        MUST(pthread_join(threads[i], &wrong) == 0);
        EXPECT_EQ((size_t)wrong, 0);
    }
    return test_done();
}
