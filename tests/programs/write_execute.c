/* SPDX-License-Identifier: Apache-2.0 */
/* write_execute: PR_SET_MDWE, after which no mapping becomes executable. */
#include <sys/mman.h>
#include <sys/prctl.h>
#include "test.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    MUST(prctl(PR_SET_MDWE, 1, 0, 0, 0) == 0);
    test_wait();
    EXPECT_EQ(prctl(PR_GET_MDWE, 0, 0, 0, 0), 1);
    EXPECT(mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0);
    return test_done();
}
