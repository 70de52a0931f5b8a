/* SPDX-License-Identifier: Apache-2.0
 * The main stack, deep and grown further afterwards, and a MAP_GROWSDOWN mapping that still grows. */
#include "memory.h"

#define DEPTH      200
#define AREA_PAGES 256

__attribute__((noinline)) static uint64_t descend(int depth, int wait)
{
    volatile uint64_t frame[256];
    for (int i = 0; i < 256; i++)
        frame[i] = memory_mix(depth * 256 + i);
    uint64_t below = 0;
    if (depth < DEPTH)
        below = descend(depth + 1, wait);
    else if (wait)
        test_wait();
    for (int i = 0; i < 256; i++)
        EXPECT(frame[i] == memory_mix(depth * 256 + i));
    return below + frame[0];
}

__attribute__((noinline)) static int grow(int depth)
{
    volatile char frame[8192];
    frame[0] = 1;
    frame[8191] = (char)depth;
    return depth ? grow(depth - 1) + frame[0] : frame[0];
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    /* Room below the mapping is reserved first, then given back, so that nothing else is mapped there. */
    char *room = memory_map(AREA_PAGES, 0), *top = room + AREA_PAGES * PAGE;
    MUST(munmap(room, AREA_PAGES * PAGE) == 0);
    char *area = mmap(top - 2 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    MUST(area == top - 2 * PAGE);
    memory_fill(area, 2, 1);
    area[-1] = 77; /* one page down: the mapping is three pages now */
    EXPECT(descend(0, 1) != 0);
    EXPECT_EQ(memory_wrong(area, 2, 1), 0);
    EXPECT_EQ(area[-1], 77);
    EXPECT(memory_flag(area, "gd"));
    area[-(long)PAGE - 1] = 78;
    EXPECT_EQ(area[-(long)PAGE - 1], 78);
    EXPECT_EQ(grow(300), 301);
    return test_done();
}
