/* SPDX-License-Identifier: Apache-2.0
 * Shared memory that is not there yet and is mapped a second time, moved, grown in place, grown and moved, left behind by
 * MREMAP_DONTUNMAP, cut, and unmapped altogether.
 */
#include "memory.h"

#define PAGES 2048
#define PART  256

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static char *map(size_t pages)
{
    char *addr = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

static size_t wrong(const char *addr, size_t first, size_t pages)
{
    return memory_wrong_from(addr, first, pages, 1);
}

static void twice(char *area)
{
    char *again = mremap(area + PART * PAGE, 0, 2 * PART * PAGE, MREMAP_MAYMOVE);
    EXPECT(again != MAP_FAILED);
    EXPECT_EQ(wrong(again + PART * PAGE, 2 * PART, PART), 0);
    EXPECT_EQ(wrong(again, PART, PART), 0);
    char *third = mremap(again + 16 * PAGE, 0, PART * PAGE, MREMAP_MAYMOVE);
    EXPECT(third != MAP_FAILED);
    EXPECT_EQ(wrong(third, PART + 16, PART), 0);
    again[100 * PAGE + 8] = 'a';
    EXPECT(third[84 * PAGE + 8] == 'a' && area[(PART + 100) * PAGE + 8] == 'a');
}

/* Cut short, then as long as before: the pages are those of the memory. */
static void grown(char *area)
{
    EXPECT_EQ(munmap(area + PART * PAGE, 2 * PART * PAGE), 0);
    EXPECT(mremap(area, PART * PAGE, 2 * PART * PAGE, 0) == area);
    EXPECT_EQ(wrong(area + (PART + PART / 2) * PAGE, PART + PART / 2, PART / 2), 0);
    /* What has been grown into is moved, and grows again. */
    char *tail = mremap(area + (PART + 8) * PAGE, 8 * PAGE, PART * PAGE, MREMAP_MAYMOVE);
    EXPECT(tail != MAP_FAILED);
    EXPECT_EQ(wrong(tail, PART + 8, PART), 0);
    EXPECT_EQ(wrong(area, 0, PART + 8), 0);
}

static void moved(char *area)
{
    char *to = memory_map(PART, 0);
    EXPECT(mremap(area + PART * PAGE, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    EXPECT_EQ(wrong(to, PART, PART), 0);
    to = mremap(area, PART * PAGE, 2 * PART * PAGE, MREMAP_MAYMOVE);
    EXPECT(to != MAP_FAILED);
    EXPECT_EQ(wrong(to, 0, 2 * PART), 0);
}

static void left_behind(char *area)
{
    char *to = mremap(area, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    EXPECT(to != MAP_FAILED);
    for (size_t i = 0; i < PART; i += 2) {
        EXPECT_EQ(wrong(area + i * PAGE, i, 1), 0);
        EXPECT_EQ(wrong(to + (i + 1) * PAGE, i + 1, 1), 0);
    }
    to[PAGE] = 'q';
    EXPECT_EQ(area[PAGE], 'q');
}

int main(int argc, char **argv)
{
    char *areas[6];
    test_init(argc, argv);
    for (int i = 0; i < 6; i++) {
        areas[i] = map(PAGES);
        memory_fill(areas[i], PAGES, 1);
    }
    test_wait();
    EXPECT_EQ(munmap(areas[5], PAGES * PAGE), 0);
    twice(areas[0]);
    grown(areas[1]);
    moved(areas[2]);
    left_behind(areas[3]);
    for (size_t i = 0; i < PAGES; i += 16)
        EXPECT_EQ(munmap(areas[4] + i * PAGE, 8 * PAGE), 0);
    for (size_t i = 0; i < PAGES; i += 16)
        EXPECT_EQ(wrong(areas[4] + (i + 8) * PAGE, i + 8, 8), 0);
    EXPECT_EQ(wrong(areas[0], 0, PART), 0);
    EXPECT_EQ(wrong(areas[3] + PART * PAGE, PART, PAGES - PART), 0);
    return test_done();
}
