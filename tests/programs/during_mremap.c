/* SPDX-License-Identifier: Apache-2.0
 * Moves, grows and shrinks mappings whose pages may still be missing: the content moves along. */
#include "memory.h"

#define PAGES 2048
#define PART  256

static void *reserve(size_t pages)
{
    void *addr = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *areas[3];
    for (int i = 0; i < 3; i++) {
        areas[i] = memory_map(PAGES, 0);
        memory_fill(areas[i], PAGES, i);
        mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* keeps them apart */
    }
    test_wait();
    char *target = reserve(4 * PAGES);
    /* A part out of the middle, over a reservation; then a part of that part again. */
    MUST(mremap(areas[0] + PART * PAGE, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) ==
         target);
    EXPECT_EQ(memory_wrong_from(target, PART, PART / 2, 0), 0);
    char *again = target + 2 * PAGES * PAGE;
    MUST(mremap(target, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, again) == again);
    EXPECT_EQ(memory_wrong_from(again, PART, PART, 0), 0);
    EXPECT_EQ(memory_wrong_from(areas[0], 0, PART, 0), 0);
    EXPECT_EQ(memory_wrong_from(areas[0] + 2 * PART * PAGE, 2 * PART, PAGES - 2 * PART, 0), 0);
    /* Larger, wherever the kernel likes; what is new is zero. */
    char *grown = mremap(areas[1], PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
    MUST(grown != MAP_FAILED);
    EXPECT_EQ(memory_wrong(grown, PAGES, 1), 0);
    for (size_t i = PAGES; i < 2 * PAGES; i++)
        EXPECT(grown[i * PAGE] == 0);
    MUST(mremap(areas[2], PAGES * PAGE, PART * PAGE, 0) == areas[2]);
    EXPECT_EQ(memory_wrong(areas[2], PART, 2), 0);
    return test_done();
}
