/* SPDX-License-Identifier: Apache-2.0
 * Discards pages (they read as zeroes from then on), changes protections, and reads all the rest. */
#include "memory.h"
#include <pthread.h>

#define PAGES 8192
#define STEP  64
#define GONE  16 /* pages 0 to 16 of each step are discarded, 16 to 32 protected for a while */

static char *area;

static void *reader(void *result)
{
    size_t wrong = 0;
    for (size_t i = 0; i < PAGES; i += STEP)
        wrong += memory_wrong_from(area + (i + 32) * PAGE, i + 32, STEP - 32, 1);
    *(size_t *)result = wrong;
    return NULL;
}

static int zero(const char *page)
{
    return *page == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static void discard(size_t i)
{
    char *part = area + i * PAGE;
    MUST(madvise(part, GONE * PAGE, MADV_DONTNEED) == 0);
    for (size_t page = 0; page < GONE; page += 2)
        EXPECT(zero(part + page * PAGE));
    MUST(mprotect(part + 16 * PAGE, 16 * PAGE, i / STEP % 2 ? PROT_NONE : PROT_READ) == 0);
}

static void protect_back(size_t i)
{
    char *part = area + i * PAGE;
    for (size_t page = 0; page < GONE; page++)
        EXPECT(zero(part + page * PAGE));
    MUST(mprotect(part + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
    EXPECT_EQ(memory_wrong_from(part + 16 * PAGE, i + 16, 16, 1), 0);
    memory_fill(part, GONE, 900 + i);
    EXPECT_EQ(memory_wrong(part, GONE, 900 + i), 0);
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
        discard(i);
    for (size_t i = 0; i < PAGES; i += STEP)
        protect_back(i);
    MUST(pthread_join(thread, NULL) == 0);
    EXPECT_EQ(wrong, 0);
    return test_done();
}
