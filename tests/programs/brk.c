/* SPDX-License-Identifier: Apache-2.0
 * The break is where it was, its memory too, and it still moves. */
#include "memory.h"

#define PAGES 300

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *old = sbrk(0), *start = (char *)(((uintptr_t)old + PAGE - 1) & ~(PAGE - 1));
    MUST(brk(start + PAGES * PAGE) == 0);
    memory_fill(start, PAGES, 1);
    test_wait();
    EXPECT(sbrk(0) == start + PAGES * PAGE);
    EXPECT_EQ(memory_wrong(start, PAGES, 1), 0);
    EXPECT(syscall(SYS_brk, start + 2 * PAGES * PAGE) == (long)(start + 2 * PAGES * PAGE));
    memory_fill(start + PAGES * PAGE, PAGES, 2);
    EXPECT_EQ(memory_wrong(start, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(start + PAGES * PAGE, PAGES, 2), 0);
    EXPECT(syscall(SYS_brk, start + PAGE) == (long)(start + PAGE));
    EXPECT_EQ(memory_wrong(start, 1, 1), 0);
    unsigned char resident;
    EXPECT(mincore(start + PAGE, PAGE, &resident) == -1 && errno == ENOMEM);
    return test_done();
}
