/* SPDX-License-Identifier: Apache-2.0
 * A pair whose ends are both the program's own: number, modes, window size, packet mode, lock, owner, flags.
 */
#include "pty.h"

int main(int argc, char **argv)
{
    int masters[4], one = 1;
    struct winsize size = {24, 81, 640, 480};
    struct stat status, other;
    test_init(argc, argv);
    pty_init();
    for (int i = 0; i < 4; i++)
        masters[i] = pty_master();
    MUST(close(masters[0]) == 0 && close(masters[2]) == 0);
    int master = masters[3], slave = pty_slave(master, O_RDWR),
        reader = pty_slave(master, O_RDONLY | O_NONBLOCK);
    struct termios2 modes = pty_modes(slave);
    modes.c_iflag |= IXANY;
    modes.c_lflag &= ~ECHO;
    modes.c_cc[VINTR] = 'q';
    modes.c_cflag = (modes.c_cflag & ~CBAUD) | BOTHER;
    modes.c_ispeed = modes.c_ospeed = 12345;
    MUST(ioctl(slave, TCSETS2, &modes) == 0 && ioctl(master, TIOCSWINSZ, &size) == 0);
    modes = pty_modes(slave);
    MUST(fchown(slave, 1234, 5) == 0 && fchmod(slave, 0620) == 0 && fstat(slave, &status) == 0);
    MUST(ioctl(master, TIOCPKT, &one) == 0 && ioctl(master, TIOCSPTLCK, &one) == 0);
    MUST(ioctl(slave, TIOCEXCL) == 0 && fcntl(master, F_SETFL, O_NONBLOCK) == 0);
    test_wait();
    EXPECT_EQ(pty_value(master, TIOCGPTN), 3);
    EXPECT_EQ(pty_value(masters[1], TIOCGPTN), 1);
    struct termios2 found = pty_modes(slave);
    EXPECT(memcmp(&found, &modes, sizeof modes) == 0);
    struct winsize window;
    EXPECT(ioctl(slave, TIOCGWINSZ, &window) == 0 && memcmp(&window, &size, sizeof size) == 0);
    EXPECT_EQ(pty_value(master, TIOCGPKT), 1);
    EXPECT_EQ(pty_value(master, TIOCGPTLCK), 1);
    EXPECT_EQ(pty_value(slave, TIOCGEXCL), 1);
    EXPECT_EQ(pty_value(masters[1], TIOCGPKT), 0);
    EXPECT_EQ(pty_value(masters[1], TIOCGPTLCK), 0);
    EXPECT(fstat(slave, &other) == 0 && other.st_rdev == status.st_rdev);
    EXPECT_EQ(other.st_uid, 1234);
    EXPECT_EQ(other.st_gid, 5);
    EXPECT_EQ(other.st_mode, status.st_mode);
    EXPECT_EQ(fcntl(master, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
    EXPECT_EQ(fcntl(slave, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
    EXPECT_EQ(fcntl(reader, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY | O_NONBLOCK);
    EXPECT(read(master, &one, 4) == -1 && errno == EAGAIN);
    pty_write(master, "typed\n", 6);
    EXPECT(pty_reads(slave, "typed\n", 6));
    pty_write(slave, "said\n", 5);
    EXPECT(pty_reads(master, "\0said\r\n", 7));
    return pty_done();
}
