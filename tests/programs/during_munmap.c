/* SPDX-License-Identifier: Apache-2.0
 * Unmaps parts of its memory and maps anew what lies there, while another thread reads the rest. */
#include "memory.h"
#include <pthread.h>

#define PAGES 8192
#define STEP  64 /* of these pages, the first 24 go */
#define GONE  24

static char *area;

static void *reader(void *result)
{
    size_t wrong = 0;
    for (size_t i = 0; i < PAGES; i += STEP)
        wrong += memory_wrong_from(area + (i + GONE) * PAGE, i + GONE, STEP - GONE, 1);
    *(size_t *)result = wrong;
    return NULL;
}

static void replace(size_t i)
{
    static const char zeroes[4096];
    void *part = area + i * PAGE;
    unsigned char resident;
    MUST(munmap(part, GONE * PAGE) == 0);
    EXPECT(mincore(part, PAGE, &resident) == -1 && errno == ENOMEM);
    if (i / STEP % 2)
        return;
    MUST(mmap(part, GONE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
              -1, 0) == part);
    for (size_t page = 0; page < GONE; page++)
        EXPECT(memcmp((char *)part + page * PAGE, zeroes, PAGE) == 0);
    memory_fill(part, GONE, 500 + i);
    EXPECT_EQ(memory_wrong(part, GONE, 500 + i), 0);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    size_t wrong = 1;
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    MUST(pthread_create(&thread, NULL, reader, &wrong) == 0);
    for (size_t i = 0; i < PAGES; i += STEP)
        replace(i);
    MUST(pthread_join(thread, NULL) == 0);
    EXPECT_EQ(wrong, 0);
    return test_done();
}
