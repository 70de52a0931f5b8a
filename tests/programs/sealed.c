/* SPDX-License-Identifier: Apache-2.0
 * mseal(2): sealed memory keeps its content and its seal. Kernels before 6.10 have none. */
#include "memory.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define PAGES 64

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *readonly = memory_map(PAGES, 0), *writable = memory_map(PAGES, 0);
    memory_fill(readonly, PAGES, 1);
    memory_fill(writable, PAGES, 2);
    MUST(mprotect(readonly, PAGES * PAGE, PROT_READ) == 0);
    int has = syscall(SYS_mseal, readonly, PAGES * PAGE, 0) == 0;
    MUST(has || errno == ENOSYS);
    MUST(!has || syscall(SYS_mseal, writable, PAGES * PAGE, 0) == 0);
    test_wait();
    EXPECT_EQ(memory_wrong(readonly, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(writable, PAGES, 2), 0);
    EXPECT(!has || (mprotect(readonly, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EPERM));
    EXPECT(!has || (munmap(writable, PAGE) < 0 && errno == EPERM));
    return test_done();
}
