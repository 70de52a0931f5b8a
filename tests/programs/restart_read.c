/* SPDX-License-Identifier: Apache-2.0
 * read from an empty pipe. */
#include "blocked.h"

static int ends[2];

static void block(void)
{
    char byte = 0;
    EXPECT_EQ(read(ends[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'x');
}

static void wake(void)
{
    MUST(write(ends[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    return blocked_main(&(struct blocked){SYS_read, block, wake});
}
