/* SPDX-License-Identifier: Apache-2.0 */
/* unprivileged: an ordinary user's process, without any capability, not dumpable by itself. */
#define _GNU_SOURCE
#include <grp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include "status.h"

int main(int argc, char **argv)
{
    char before[256], after[256];
    test_init(argc, argv);
    MUST(chmod(test_workdir, 0777) == 0);
    MUST(setgroups(0, NULL) == 0);
    MUST(setresgid(65534, 65534, 65534) == 0);
    MUST(setresuid(65534, 65534, 65534) == 0);
    status_line("CapBnd", before, sizeof before);
    int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    test_wait();
    EXPECT_EQ(geteuid(), 65534);
    EXPECT_EQ(getegid(), 65534);
    EXPECT_EQ(getgroups(0, NULL), 0);
    EXPECT(setuid(0) < 0 && errno == EPERM);
    status_line("CapBnd", after, sizeof after);
    EXPECT(strcmp(before, after) == 0);
    status_line("CapEff", after, sizeof after);
    EXPECT(strcmp(after, "CapEff:\t0000000000000000\n") == 0);
    EXPECT_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), dumpable);
    return test_done();
}
