/* SPDX-License-Identifier: Apache-2.0
 * mlockall(MCL_FUTURE): what was mapped before stays as it was, what is mapped later is locked. */
#include "memory.h"

#define PAGES 64

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *before = memory_map(PAGES, 0);
    memory_fill(before, PAGES, 1);
    MUST(mlockall(MCL_FUTURE | MCL_ONFAULT) == 0);
    char *after = memory_map(PAGES, 0);
    memory_fill(after, PAGES, 2);
    test_wait();
    char *now = memory_map(PAGES, 0);
    now[0] = 1;
    EXPECT(!memory_flag(before, "lo"));
    EXPECT(memory_flag(after, "lf"));
    EXPECT(memory_flag(now, "lf"));
    EXPECT_EQ(memory_wrong(before, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(after, PAGES, 2), 0);
    return test_done();
}
