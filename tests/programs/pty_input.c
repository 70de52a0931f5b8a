/* SPDX-License-Identifier: Apache-2.0
 * Keys that nobody has read yet: lines, ends of file, an unfinished line that can still be edited, raw bytes.
 */
#include "pty.h"

/* VEOL is 'X', ^V quotes, ^D ends. */
static void set_lines(int slave)
{
    struct termios2 modes = pty_modes(slave);
    modes.c_iflag = ICRNL | IXON;
    modes.c_lflag = ICANON | ISIG | IEXTEN | ECHO | ECHOE;
    modes.c_cc[VEOL] = 'X';
    MUST(ioctl(slave, TCSETS2, &modes) == 0);
}

/* Echoed last, it tells that all before it has arrived. */
static void await_echo(int master, char last)
{
    char found = 0;
    while (found != last)
        MUST(read(master, &found, 1) == 1);
}

int main(int argc, char **argv)
{
    char bytes[512], found[512];
    static const char typed[] = "one\rtwo\004\004fourXfi\026\nve\026\026\026\004\nsi\026X\004par#";
    test_init(argc, argv);
    pty_init();
    int master = pty_master(), slave = pty_slave(master, O_RDWR | O_NONBLOCK);
    int raw_master = pty_master(), raw = pty_slave(raw_master, O_RDWR | O_NONBLOCK);
    int empty_master = pty_master(), empty = pty_slave(empty_master, O_RDWR | O_NONBLOCK);
    set_lines(slave);
    pty_write(master, typed, sizeof typed - 1);
    await_echo(master, '#');
    pty_set(raw, 0, OPOST | ONLCR, ECHO);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)i;
    pty_write(raw_master, bytes, sizeof bytes);
    await_echo(raw_master, '\376');
    await_echo(raw_master, '\377');
    await_echo(raw_master, '\377');
    pty_set(raw, ICRNL | ISTRIP, OPOST, ISIG | ECHO | IEXTEN);
    test_wait();
    EXPECT_EQ(pty_events(master) & POLLIN, 0);
    EXPECT_EQ(pty_events(raw_master) & POLLIN, 0);
    EXPECT(read(empty, found, 1) == -1 && errno == EAGAIN);
    EXPECT_EQ(read(raw, found, sizeof found), sizeof bytes);
    EXPECT(memcmp(found, bytes, sizeof bytes) == 0);
    EXPECT(pty_reads(slave, "one\n", 4));
    EXPECT(pty_reads(slave, "two", 3));
    EXPECT(pty_reads(slave, "", 0));
    EXPECT(pty_reads(slave, "fourX", 5));
    EXPECT(pty_reads(slave, "fi\nve\026\004\n", 8));
    /* As a line that ended in a quoted X, or one that VEOL ended: it reads the same. */
    EXPECT(pty_reads(slave, "siX", 3));
    EXPECT(read(slave, found, sizeof found) == -1 && errno == EAGAIN);
    pty_write(master, "\177t\n", 3);
    EXPECT(pty_reads(slave, "part\n", 5));
    return pty_done();
}
