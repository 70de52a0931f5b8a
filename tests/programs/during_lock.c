/* SPDX-License-Identifier: Apache-2.0
 * Calls that want whole ranges at once while they are missing: mlockall, mlock, MADV_POPULATE of both kinds, and
 * protections to nothing and back, with a chunk of each range touched before. */
#include "memory.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define PAGES 512
#define PARTS 6

static char *areas[PARTS];

static void touch_some(const char *area)
{
    EXPECT_EQ(memory_wrong_from(area + 100 * PAGE, 100, 3, 1), 0);
}

/* Nothing of this range may be there only in name: mincore(2) tells of every page. */
static void expect_resident(char *area)
{
    unsigned char resident[PAGES];
    size_t absent = 0;
    MUST(mincore(area, PAGES * PAGE, resident) == 0);
    for (size_t i = 0; i < PAGES; i++)
        absent += !(resident[i] & 1);
    EXPECT_EQ(absent, 0);
}

static void through_protections(char *area)
{
    static const int protections[] = {PROT_NONE, PROT_READ,  PROT_READ | PROT_EXEC,
                                      PROT_NONE, PROT_WRITE, PROT_READ | PROT_WRITE | PROT_EXEC,
                                      PROT_NONE};
    for (size_t i = 0; i < sizeof protections / sizeof protections[0]; i++) {
        MUST(mprotect(area, PAGES * PAGE, protections[i]) == 0);
        if (protections[i] & PROT_READ)
            EXPECT_EQ(memory_wrong_from(area + i * 32 * PAGE, i * 32, 8, 1), 0);
    }
    MUST(mprotect(area, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    for (size_t i = 0; i < PARTS; i++) {
        areas[i] = memory_map(PAGES, 0);
        memory_fill(areas[i], PAGES, 1);
        memory_map(1, MAP_NORESERVE); /* keeps them apart */
    }
    test_wait();
    for (size_t i = 0; i < PARTS; i++)
        touch_some(areas[i]);
    EXPECT_EQ(madvise(areas[0], PAGES * PAGE, MADV_POPULATE_READ), 0);
    expect_resident(areas[0]);
    EXPECT_EQ(madvise(areas[1], PAGES * PAGE, MADV_POPULATE_WRITE), 0);
    expect_resident(areas[1]);
    EXPECT_EQ(mlock(areas[2], PAGES * PAGE), 0);
    expect_resident(areas[2]);
    EXPECT_EQ(mlock2(areas[3], PAGES * PAGE, MLOCK_ONFAULT), 0);
    EXPECT_EQ(memory_wrong(areas[3], PAGES, 1), 0);
    MUST(munlock(areas[3], PAGES * PAGE) == 0);
    through_protections(areas[4]);
    EXPECT_EQ(mlockall(MCL_CURRENT), 0);
    expect_resident(areas[5]);
    for (size_t i = 0; i < PARTS; i++)
        EXPECT_EQ(memory_wrong(areas[i], PAGES, 1), 0);
    EXPECT_EQ(munlockall(), 0);
    return test_done();
}
