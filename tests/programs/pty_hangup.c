/* SPDX-License-Identifier: Apache-2.0
 * Pairs of which one end is missing: a slave that nobody has opened, one that was closed, one whose master has gone.
 */
#include "pty.h"

int main(int argc, char **argv)
{
    char byte;
    test_init(argc, argv);
    pty_init();
    int unopened = pty_master(), closed = pty_master(), gone = pty_master();
    int left = pty_slave(gone, O_RDWR | O_NONBLOCK);
    int was = pty_slave(closed, O_RDWR);
    pty_set(was, 0, 0, 0);
    pty_write(was, "last words", 10);
    pty_write(closed, "unread", 6);
    MUST(close(was) == 0 && close(gone) == 0);
    test_wait();
    EXPECT_EQ(pty_events(unopened), POLLOUT);
    EXPECT_EQ(pty_events(closed) & (POLLHUP | POLLIN), POLLHUP | POLLIN);
    EXPECT(pty_reads(closed, "last words", 10));
    EXPECT(read(closed, &byte, 1) == -1 && errno == EIO);
    EXPECT_EQ(pty_events(left) & POLLHUP, POLLHUP);
    EXPECT_EQ(read(left, &byte, 1), 0);
    EXPECT(write(left, &byte, 1) == -1 && errno == EIO);
    EXPECT_EQ(fcntl(left, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
    EXPECT_EQ(pty_value(unopened, TIOCGPTN), 0);
    EXPECT_EQ(pty_value(closed, TIOCGPTN), 1);
    int again = pty_slave(closed, O_RDWR);
    EXPECT(pty_reads(again, "unread", 6));
    pty_write(again, "hello", 5);
    EXPECT(pty_reads(closed, "hello", 5));
    again = pty_slave(unopened, O_RDWR);
    pty_write(unopened, "key\n", 4);
    EXPECT(pty_reads(again, "key\n", 4));
    return pty_done();
}
