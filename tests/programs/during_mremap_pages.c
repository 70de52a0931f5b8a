/* SPDX-License-Identifier: Apache-2.0
 * Turns an area round page by page while its pages are missing, which leaves thousands of mappings, and back again; then
 * moves one page to and fro more often than anybody could note for ever. */
#include "memory.h"

#define PAGES 3000
#define SWAYS 20000

static void move(char *from, char *to)
{
    MUST(mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    char *other = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(other != MAP_FAILED);
    test_wait();
    for (size_t i = 0; i < PAGES; i++)
        move(area + i * PAGE, other + (PAGES - 1 - i) * PAGE);
    for (size_t i = 0; i < PAGES; i += 16)
        EXPECT_EQ(memory_wrong_from(other + (PAGES - 1 - i) * PAGE, i, 1, 1), 0);
    for (size_t i = 0; i < PAGES; i++)
        move(other + (PAGES - 1 - i) * PAGE, area + i * PAGE);
    for (size_t i = 0; i < SWAYS; i++) {
        move(area + PAGE, other);
        move(other, area + PAGE);
    }
    EXPECT_EQ(memory_wrong(area, PAGES, 1), 0);
    return test_done();
}
