/* SPDX-License-Identifier: Apache-2.0
 * A page of 1 GiB. */
#include "hugetlb.h"

#define GIGANTIC ((size_t)1 << 30)

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_1G_FLAG;
    char *addr = mmap(NULL, GIGANTIC, PROT_READ | PROT_WRITE, flags, -1, 0);
    MUST(addr != MAP_FAILED);
    memory_fill(addr + GIGANTIC / 2, 64, 1);
    test_wait();
    EXPECT_EQ(memory_wrong(addr + GIGANTIC / 2, 64, 1), 0);
    EXPECT_EQ(addr[0] | addr[GIGANTIC - 1], 0);
    EXPECT_EQ(hugetlb_page_kib(addr), 1048576);
    return test_done();
}
