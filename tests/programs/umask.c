/* SPDX-License-Identifier: Apache-2.0 */
/* umask: the file mode creation mask. */
#include <sys/stat.h>
#include "test.h"

int main(int argc, char **argv)
{
    test_init(argc, argv);
    umask(0137);
    test_wait();
    EXPECT_EQ(umask(0), 0137);
    return test_done();
}
