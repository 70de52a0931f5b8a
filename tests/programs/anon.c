/* SPDX-License-Identifier: Apache-2.0
 * Anonymous memory with every protection, its content, and mappings that are almost empty. */
#include "memory.h"

#define PAGES        100
#define SPARSE_PAGES ((size_t)1 << 18)
#define SPARSE_STEP  10007

static const struct {
    int prot;
    const char *perms;
} kinds[] = {
    {PROT_READ | PROT_WRITE, "rw-p"},
    {PROT_READ, "r--p"},
    {PROT_NONE, "---p"},
    {PROT_READ | PROT_EXEC, "r-xp"},
    {PROT_READ | PROT_WRITE | PROT_EXEC, "rwxp"},
    {PROT_WRITE, "-w-p"},
    {PROT_EXEC, "--xp"},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void check(void *area, size_t kind)
{
    if (strcmp(memory_perms(area), kinds[kind].perms) != 0)
        test_differs("a mapping has become %s, was %s", memory_perms(area), kinds[kind].perms);
    if (kinds[kind].prot & PROT_READ)
        EXPECT_EQ(memory_wrong(area, PAGES, kind), 0);
    MUST(mprotect(area, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
    EXPECT_EQ(memory_wrong(area, PAGES, kind), 0);
    memory_fill(area, PAGES, kind + 100);
    EXPECT_EQ(memory_wrong(area, PAGES, kind + 100), 0);
}

int main(int argc, char **argv)
{
    void *areas[KINDS];
    test_init(argc, argv);
    for (size_t i = 0; i < KINDS; i++) {
        areas[i] = memory_map(PAGES, 0);
        memory_fill(areas[i], PAGES, i);
        MUST(mprotect(areas[i], PAGES * PAGE, kinds[i].prot) == 0);
    }
    uint64_t *sparse = memory_map(SPARSE_PAGES, MAP_NORESERVE);
    void *empty = memory_map(16, 0);
    for (size_t i = 0; i < SPARSE_PAGES; i += SPARSE_STEP)
        sparse[i * 512 + i % 512] = i + 1;
    test_wait();
    for (size_t i = 0; i < KINDS; i++)
        check(areas[i], i);
    for (size_t i = 0; i < SPARSE_PAGES; i += SPARSE_STEP)
        EXPECT_EQ(sparse[i * 512 + i % 512], i + 1);
    EXPECT_EQ(sparse[512], 0);
    EXPECT(memcmp(empty, (char *)empty + PAGE, 15 * PAGE) == 0 && *(char *)empty == 0);
    return test_done();
}
