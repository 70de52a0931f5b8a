/* SPDX-License-Identifier: Apache-2.0
 * MAP_DROPPABLE: comes back empty, as its owner must expect at any time. Kernels before 6.11 have none. */
#include "memory.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define PAGES 16

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *plain = memory_map(PAGES, 0);
    memory_fill(plain, PAGES, 1);
    char *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_DROPPABLE, -1, 0);
    MUST(area != MAP_FAILED || errno == EINVAL);
    if (area != MAP_FAILED)
        memset(area, 0x5a, PAGES * PAGE);
    test_wait();
    EXPECT_EQ(memory_wrong(plain, PAGES, 1), 0);
    EXPECT(area == MAP_FAILED || memory_flag(area, "dp"));
    for (size_t i = 0; area != MAP_FAILED && i < PAGES; i++)
        EXPECT(area[i * PAGE] == 0x5a || area[i * PAGE] == 0);
    if (area != MAP_FAILED)
        memset(area, 0x5a, PAGES * PAGE);
    return test_done();
}
