/* SPDX-License-Identifier: Apache-2.0
 * The madvise settings that a mapping keeps, seen in smaps, with the content under them. */
#include "memory.h"

#define PAGES 32

static const struct {
    int advice;
    const char *flag; /* as in VmFlags */
} kinds[] = {
    {MADV_DONTFORK, "dc"}, {MADV_DONTDUMP, "dd"}, {MADV_WIPEONFORK, "wf"}, {MADV_SEQUENTIAL, "sr"},
    {MADV_RANDOM, "rr"},   {MADV_HUGEPAGE, "hg"}, {MADV_NOHUGEPAGE, "nh"}, {MADV_MERGEABLE, "mg"},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

int main(int argc, char **argv)
{
    char *areas[KINDS];
    int kept[KINDS];
    test_init(argc, argv);
    for (size_t i = 0; i < KINDS; i++) {
        areas[i] = memory_map(PAGES, 0);
        memory_fill(areas[i], PAGES, i);
        /* A kernel may be built without the feature: what it refused has nothing to keep. */
        kept[i] =
            madvise(areas[i], PAGES * PAGE, kinds[i].advice) == 0 && memory_flag(areas[i], kinds[i].flag);
    }
    test_wait();
    for (size_t i = 0; i < KINDS; i++) {
        if (memory_flag(areas[i], kinds[i].flag) != kept[i])
            test_differs("flag %s: was %d", kinds[i].flag, kept[i]);
        EXPECT_EQ(memory_wrong(areas[i], PAGES, i), 0);
    }
    return test_done();
}
