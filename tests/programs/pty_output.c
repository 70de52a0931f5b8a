/* SPDX-License-Identifier: Apache-2.0
 * Output that the master has not read yet, and terminals that Ctrl-S or tcflow(3) has stopped.
 */
#include "pty.h"

enum { LINES = 800 };

static int is_stopped(int slave)
{
    return (pty_events(slave) & POLLOUT) == 0;
}

static void await_stop(int slave)
{
    while (!is_stopped(slave))
        continue;
}

int main(int argc, char **argv)
{
    char line[16], found[16];
    test_init(argc, argv);
    pty_init();
    int master = pty_master(), slave = pty_slave(master, O_RDWR);
    int key_master = pty_master(), key = pty_slave(key_master, O_RDWR | O_NONBLOCK);
    int flow_master = pty_master(), flow = pty_slave(flow_master, O_RDWR | O_NONBLOCK);
    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "line %06d\n", i);
        pty_write(slave, line, 12);
    }
    pty_write(key, "before\n", 7);
    pty_write(key_master, "\023", 1);
    await_stop(key);
    pty_write(flow, "before\n", 7);
    MUST(ioctl(flow, TCXONC, TCOOFF) == 0);
    test_wait();
    for (int i = 0; i < LINES; i++) {
        size_t have = 0;
        snprintf(line, sizeof line, "line %06d\r\n", i);
        while (have < 13) {
            ssize_t n = read(master, found + have, 13 - have);
            MUST(n > 0);
            have += (size_t)n;
        }
        if (memcmp(line, found, 13) != 0) {
            EXPECT(memcmp(line, found, 13) == 0);
            break;
        }
    }
    EXPECT_EQ(pty_events(master) & POLLIN, 0);
    EXPECT(is_stopped(key) && is_stopped(flow) && !is_stopped(slave));
    EXPECT(write(key, "after\n", 6) == -1 && errno == EAGAIN);
    EXPECT(pty_reads(key_master, "before\r\n", 8));
    EXPECT(pty_reads(flow_master, "before\r\n", 8));
    pty_write(flow_master, "\021", 1);
    pty_write(key_master, "\021", 1);
    while (is_stopped(key))
        continue;
    pty_write(key, "after\n", 6);
    EXPECT(pty_reads(key_master, "after\r\n", 7));
    EXPECT(is_stopped(flow));
    EXPECT(ioctl(flow, TCXONC, TCOON) == 0 && !is_stopped(flow));
    return pty_done();
}
