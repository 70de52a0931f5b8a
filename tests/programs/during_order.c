/* SPDX-License-Identifier: Apache-2.0
 * One thread unmaps a place or moves it away, and another moves missing pages there as soon as it sees that it is free: the
 * kernel may tell of what came second before it tells of what came first. */
#include "memory.h"
#include <pthread.h>
#include <sched.h>

#define ROUNDS 500
#define SIZE   2 /* pages that move */
#define STEP   (2 * SIZE)
#define PAGES  (ROUNDS * STEP)

static char *area, *aside;
static volatile size_t turn; /* rounds that the first may do */

static char *place(size_t round)
{
    return area + round * STEP * PAGE;
}

/* In every second round what was there is kept elsewhere. */
static void *first(void *argument)
{
    for (size_t round = 0; round < ROUNDS; round++) {
        char *away = aside + round * SIZE * PAGE;
        while (turn <= round)
            if (test_may_go())
                sched_yield();
        if (round % 2)
            MUST(mremap(place(round), SIZE * PAGE, SIZE * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away);
        else
            MUST(munmap(place(round), SIZE * PAGE) == 0);
    }
    return argument;
}

/* Until nothing is mapped there, however long the kernel takes to tell. */
static void wait_unmapped(char *addr)
{
    unsigned char resident;
    while (mincore(addr, SIZE * PAGE, &resident) == 0)
        continue;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    size_t wrong = 0, wrong_aside = 0;
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    aside = mmap(NULL, ROUNDS * SIZE * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(aside != MAP_FAILED);
    MUST(pthread_create(&thread, NULL, first, NULL) == 0);
    test_wait();
    for (size_t round = 0; round < ROUNDS; round++) {
        char *to = place(round), *from = to + SIZE * PAGE;
        turn = round + 1;
        wait_unmapped(to);
        MUST(mremap(from, SIZE * PAGE, SIZE * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        wrong += memory_wrong_from(to, round * STEP + SIZE, SIZE, 1);
    }
    MUST(pthread_join(thread, NULL) == 0);
    for (size_t round = 1; round < ROUNDS; round += 2)
        wrong_aside += memory_wrong_from(aside + round * SIZE * PAGE, round * STEP, SIZE, 1);
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(wrong_aside, 0);
    return test_done();
}
