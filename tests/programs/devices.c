/* SPDX-License-Identifier: Apache-2.0 */
/* devices: those that have no state of their own. */
#include "test.h"

int main(int argc, char **argv)
{
    char bytes[16] = "x", other[16] = "";
    test_init(argc, argv);
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY),
        full = open("/dev/full", O_WRONLY);
    int random = open("/dev/random", O_RDONLY), urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    MUST(null >= 0 && zero >= 0 && full >= 0 && random >= 0 && urandom >= 0);
    MUST(read(urandom, other, sizeof other) == sizeof other);
    test_wait();
    EXPECT_EQ(read(null, bytes, 1), 0);
    EXPECT_EQ(write(null, bytes, 1), 1);
    EXPECT(read(zero, bytes, 1) == 1 && bytes[0] == 0);
    EXPECT(write(full, bytes, 1) < 0 && errno == ENOSPC);
    EXPECT_EQ(read(random, bytes, sizeof bytes), sizeof bytes);
    EXPECT(memcmp(bytes, other, sizeof bytes) != 0);
    EXPECT_EQ(read(urandom, bytes, sizeof bytes), sizeof bytes);
    return test_done();
}
