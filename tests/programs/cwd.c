/* SPDX-License-Identifier: Apache-2.0 */
/* cwd: the working directory, one with an odd name. */
#include <sys/stat.h>
#include "test.h"

int main(int argc, char **argv)
{
    char here[4096], name[4096];
    test_init(argc, argv);
    snprintf(name, sizeof name, "%s", test_path("a b\t\xc3\xa9\xff"));
    MUST(mkdir(name, 0700) == 0);
    MUST(chdir(name) == 0);
    test_wait();
    EXPECT(getcwd(here, sizeof here) && strcmp(here, name) == 0);
    EXPECT(access("../ready", F_OK) == 0);
    return test_done();
}
