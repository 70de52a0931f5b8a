/* SPDX-License-Identifier: Apache-2.0 */
/* rlimits: soft and hard limits of every resource. */
#include <sys/resource.h>
#include "test.h"

static struct rlimit limits[RLIM_NLIMITS];

int main(int argc, char **argv)
{
    test_init(argc, argv);
    for (int i = 0; i < RLIM_NLIMITS; i++)
        MUST(getrlimit(i, &limits[i]) == 0);
    limits[RLIMIT_NOFILE].rlim_cur = limits[RLIMIT_NOFILE].rlim_max = 77;
    limits[RLIMIT_CORE].rlim_cur = 12345;
    limits[RLIMIT_STACK].rlim_cur = 3 << 20;
    limits[RLIMIT_CPU].rlim_cur = 5000;
    limits[RLIMIT_FSIZE].rlim_cur = 1 << 30;
    for (int i = 0; i < RLIM_NLIMITS; i++)
        MUST(setrlimit(i, &limits[i]) == 0);
    test_wait();
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit now;
        EXPECT(getrlimit(i, &now) == 0);
        EXPECT_EQ(now.rlim_cur, limits[i].rlim_cur);
        EXPECT_EQ(now.rlim_max, limits[i].rlim_max);
    }
    return test_done();
}
