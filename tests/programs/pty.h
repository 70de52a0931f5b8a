/* SPDX-License-Identifier: Apache-2.0
 *
 * Pseudoterminals of a devpts that belongs to the test: their numbers are taken by nobody else.
 */
#ifndef PTY_H
#define PTY_H
#include <asm/termbits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "test.h"

static inline void pty_init(void)
{
    MUST(mkdir(test_path("pts"), 0755) == 0);
    MUST(mount("devpts", test_path("pts"), "devpts", 0, "ptmxmode=0666") == 0);
}

/* In a mount namespace of a restore this does not reach the others: conftest.py does. */
static inline int pty_done(void)
{
    int code = test_done();
    umount2(test_path("pts"), MNT_DETACH);
    return code;
}

static inline int pty_master(void)
{
    int unlocked = 0, master = open(test_path("pts/ptmx"), O_RDWR | O_NOCTTY);
    MUST(master >= 0 && ioctl(master, TIOCSPTLCK, &unlocked) == 0);
    return master;
}

static inline int pty_slave(int master, int flags)
{
    int slave = ioctl(master, TIOCGPTPEER, flags | O_NOCTTY);
    MUST(slave >= 0);
    return slave;
}

static inline struct termios2 pty_modes(int fd)
{
    struct termios2 modes;
    MUST(ioctl(fd, TCGETS2, &modes) == 0);
    return modes;
}

static inline void pty_set(int fd, tcflag_t input, tcflag_t output, tcflag_t local)
{
    struct termios2 modes = pty_modes(fd);
    modes.c_iflag = input;
    modes.c_oflag = output;
    modes.c_lflag = local;
    MUST(ioctl(fd, TCSETS2, &modes) == 0);
}

static inline int pty_events(int fd)
{
    struct pollfd poller = {fd, POLLIN | POLLOUT | POLLPRI, 0};
    MUST(poll(&poller, 1, 0) >= 0);
    return poller.revents;
}

static inline int pty_value(int fd, unsigned long request)
{
    int value = -1;
    MUST(ioctl(fd, request, &value) == 0);
    return value;
}

static inline void pty_write(int fd, const char *text, size_t bytes)
{
    MUST(write(fd, text, bytes) == (ssize_t)bytes);
}

/* The kernel passes on what is written by a work queue, and in pieces: "said", then "\r\n". */
static inline void pty_await(int fd, size_t bytes)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int packets = 0, queued = 0;
    if (ioctl(fd, TIOCGPKT, &packets) == 0 && packets && bytes > 0)
        bytes--;
    for (int i = 0; i < 5000 && ioctl(fd, FIONREAD, &queued) == 0 && (size_t)queued < bytes; i++)
        nanosleep(&pause, NULL);
}

/* Whether the next read gives exactly this; waits for what the kernel has not passed on yet. */
static inline int pty_reads(int fd, const char *text, size_t bytes)
{
    pty_await(fd, bytes);
    char found[8192];
    struct pollfd poller = {fd, POLLIN, 0};
    if (poll(&poller, 1, 5000) != 1)
        return 0;
    ssize_t n = read(fd, found, sizeof found);
    return n == (ssize_t)bytes && memcmp(found, text, bytes) == 0;
}

#endif
