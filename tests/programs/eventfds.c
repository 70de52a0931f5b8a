/* SPDX-License-Identifier: Apache-2.0 */
/* eventfds: counters, a semaphore, a counter of more than 32 bits. */
#include <sys/eventfd.h>
#include "test.h"

int main(int argc, char **argv)
{
    uint64_t value, large = 0x123456789abcdefULL;
    test_init(argc, argv);
    int plain = eventfd(5, 0), semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    int wide = eventfd(0, EFD_NONBLOCK), empty = eventfd(0, EFD_NONBLOCK);
    MUST(plain >= 0 && semaphore >= 0 && wide >= 0 && empty >= 0 && write(wide, &large, 8) == 8);
    test_wait();
    EXPECT(read(plain, &value, 8) == 8 && value == 5);
    EXPECT_EQ(fcntl(plain, F_GETFL) & O_NONBLOCK, 0);
    for (int i = 0; i < 3; i++)
        EXPECT(read(semaphore, &value, 8) == 8 && value == 1);
    EXPECT(read(semaphore, &value, 8) < 0 && errno == EAGAIN);
    EXPECT_EQ(fcntl(semaphore, F_GETFD), FD_CLOEXEC);
    EXPECT(read(wide, &value, 8) == 8 && value == large);
    EXPECT(read(empty, &value, 8) < 0 && errno == EAGAIN);
    return test_done();
}
