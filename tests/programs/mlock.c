/* SPDX-License-Identifier: Apache-2.0
 * Locked memory is locked and all there, the rest is not; mlockall's word about future mappings holds. */
#include "memory.h"

#define PAGES 64

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *locked = memory_map(PAGES, 0), *plain = memory_map(PAGES, 0), *readonly = memory_map(PAGES, 0);
    memory_fill(locked, PAGES, 1);
    memory_fill(plain, PAGES, 2);
    memory_fill(readonly, PAGES, 3);
    MUST(mlock(locked, PAGES * PAGE) == 0);
    MUST(mlock(plain + 16 * PAGE, 8 * PAGE) == 0);
    MUST(mprotect(readonly, PAGES * PAGE, PROT_READ) == 0);
    MUST(mlock2(readonly, PAGES * PAGE, MLOCK_ONFAULT) == 0);
    test_wait();
    EXPECT(memory_flag(locked, "lo"));
    EXPECT_EQ(atol(memory_smaps(locked, "Rss")), PAGES * 4);
    EXPECT(!memory_flag(plain, "lo"));
    EXPECT(memory_flag(plain + 16 * PAGE, "lo"));
    EXPECT(!memory_flag(plain + 24 * PAGE, "lo"));
    EXPECT(memory_flag(readonly, "lo"));
    EXPECT_EQ(memory_wrong(locked, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(plain, PAGES, 2), 0);
    EXPECT_EQ(memory_wrong(readonly, PAGES, 3), 0);
    return test_done();
}
