/* SPDX-License-Identifier: Apache-2.0 */
/* chroot: a root directory of its own, and a working directory in it. */
#include <sys/stat.h>
#include "test.h"

int main(int argc, char **argv)
{
    char here[4096];
    test_init(argc, argv);
    MUST(mkdir(test_path("inside"), 0700) == 0);
    MUST(chroot(test_workdir) == 0);
    MUST(chdir("/inside") == 0);
    test_workdir = "/";
    test_wait();
    EXPECT(getcwd(here, sizeof here) && strcmp(here, "/inside") == 0);
    EXPECT(access("/proc", F_OK) < 0);
    EXPECT(access("/inside/../ready", F_OK) == 0);
    return test_done();
}
