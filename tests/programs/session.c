/* SPDX-License-Identifier: Apache-2.0 */
/* session: a session leader leads again; its children can be told from its parent's. */
#include "test.h"

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(getsid(0) == getpid() || setsid() == getpid());
    test_wait();
    EXPECT_EQ(getsid(0), getpid());
    EXPECT_EQ(getpgrp(), getpid());
    EXPECT(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
    return test_done();
}
