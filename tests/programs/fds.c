/* SPDX-License-Identifier: Apache-2.0 */
/* fds: numbers, close-on-exec, what is shared by dup and what is not, gaps, a high number. */
#include "test.h"

enum { HIGH = 713 };

static int same(int one, int other)
{
    return syscall(SYS_kcmp, getpid(), getpid(), 0, one, other) == 0;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int first = open("/dev/null", O_RDWR), second = open("/dev/null", O_RDWR);
    MUST(first >= 0 && second >= 0);
    MUST(dup3(first, HIGH, O_CLOEXEC) == HIGH && dup2(first, 40) == 40 && dup2(second, 41) == 41);
    MUST(close(first) == 0);
    uint64_t open_before[12] = {0}, open_after[12] = {0};
    for (int i = 0; i < HIGH + 40; i++)
        if (fcntl(i, F_GETFD) >= 0)
            open_before[i / 64] |= 1ULL << i % 64;
    test_wait();
    for (int i = 0; i < HIGH + 40; i++)
        if (fcntl(i, F_GETFD) >= 0)
            open_after[i / 64] |= 1ULL << i % 64;
    EXPECT(memcmp(open_before, open_after, sizeof open_before) == 0);
    EXPECT_EQ(fcntl(HIGH, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(40, F_GETFD), 0);
    EXPECT(same(HIGH, 40));
    EXPECT(same(second, 41));
    EXPECT(!same(40, 41));
    EXPECT_EQ(open("/dev/null", O_RDONLY), first);
    return test_done();
}
