/* SPDX-License-Identifier: Apache-2.0 */
/* pipes: content, capacity, flags, packet mode, an end that was closed. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include "test.h"

enum { BULK = 150000 };
static unsigned char bulk[BULK], back[BULK];

int main(int argc, char **argv)
{
    int plain[2], large[2], packets[2], no_writer[2], no_reader[2], queued;
    char text[64];
    test_init(argc, argv);
    for (int i = 0; i < BULK; i++)
        bulk[i] = (unsigned char)(i * 31 + i / 257);
    MUST(pipe(plain) == 0 && pipe2(large, O_NONBLOCK | O_CLOEXEC) == 0 && pipe2(packets, O_DIRECT) == 0);
    MUST(pipe(no_writer) == 0 && pipe(no_reader) == 0);
    MUST(write(plain[1], "hello", 5) == 5 && read(plain[0], text, 2) == 2);
    MUST(fcntl(plain[1], F_SETFL, O_NONBLOCK) == 0);
    MUST(fcntl(large[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18 && write(large[1], bulk, BULK) == BULK);
    MUST(write(packets[1], "abc", 3) == 3 && write(packets[1], "de", 2) == 2);
    MUST(write(no_writer[1], "rest", 4) == 4 && close(no_writer[1]) == 0);
    MUST(close(no_reader[0]) == 0 && signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    test_wait();
    EXPECT(fcntl(plain[0], F_GETFL) == O_RDONLY && fcntl(plain[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
    EXPECT(read(plain[0], text, sizeof text) == 3 && memcmp(text, "llo", 3) == 0);
    EXPECT(write(plain[1], "again", 5) == 5 && read(plain[0], text, sizeof text) == 5);
    EXPECT_EQ(fcntl(large[0], F_GETPIPE_SZ), 1 << 18);
    EXPECT_EQ(fcntl(large[0], F_GETFD), FD_CLOEXEC);
    EXPECT(ioctl(large[0], FIONREAD, &queued) == 0 && queued == BULK);
    EXPECT(read(large[0], back, BULK) == BULK && memcmp(bulk, back, BULK) == 0);
    EXPECT(read(large[0], back, 1) < 0 && errno == EAGAIN);
    EXPECT_EQ(read(packets[0], text, sizeof text), 3);
    EXPECT_EQ(read(packets[0], text, sizeof text), 2);
    EXPECT_EQ(fcntl(packets[1], F_GETFL), O_WRONLY | O_DIRECT);
    EXPECT_EQ(read(no_writer[0], text, sizeof text), 4);
    EXPECT_EQ(read(no_writer[0], text, sizeof text), 0);
    EXPECT(write(no_reader[1], "x", 1) < 0 && errno == EPIPE);
    return test_done();
}
