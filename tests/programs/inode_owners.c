/* SPDX-License-Identifier: Apache-2.0 */
/* inode_owners: pipes and sockets that belong to another user, by fstat, by what opens them anew, by routing. */
#include <arpa/inet.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "test.h"

enum { PIPE_READ, PIPE_WRITE, WIDE, WIDE_WRITE, PAIR, PAIR_OTHER, UNIX, TCP, UDP, NETLINK, COUNT };
enum { USER = 4711, GROUP = 4712 };

static int fds[COUNT];

static void expect_owner(int which, mode_t mode)
{
    struct stat status;
    EXPECT(fstat(fds[which], &status) == 0);
    EXPECT_EQ(status.st_uid, USER);
    EXPECT_EQ(status.st_gid, GROUP);
    EXPECT_EQ(status.st_mode & 07777, mode);
}

/* As a server that has given up root does with /dev/stdout. */
static void expect_opens(int which, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[which]);
    MUST(setfsgid(GROUP) == 0 && setfsuid(USER) == 0);
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
    EXPECT(fd >= 0);
    close(fd);
    setfsuid(0);
    setfsgid(0);
}

/* The user that the kernel has for a socket, of which /proc/net/udp tells. */
static void expect_socket_of_user(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    char line[512], wanted[32];
    unsigned uid = 0;
    EXPECT(getsockname(fds[UDP], (struct sockaddr *)&address, &length) == 0);
    snprintf(wanted, sizeof wanted, "0100007F:%04X ", ntohs(address.sin_port));
    FILE *file = fopen("/proc/net/udp", "re");
    MUST(file);
    while (fgets(line, sizeof line, file))
        if (strstr(line, wanted))
            sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %u", &uid);
    fclose(file);
    EXPECT_EQ(uid, USER);
}

int main(int argc, char **argv)
{
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct stat status;
    test_init(argc, argv);
    setfsgid(GROUP);
    setfsuid(USER);
    MUST(pipe(fds + PIPE_READ) == 0 && pipe(fds + WIDE) == 0 && fchmod(fds[WIDE], 0646) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds + PAIR) == 0 && fchmod(fds[PAIR], 0700) == 0);
    MUST((fds[UNIX] = socket(AF_UNIX, SOCK_DGRAM, 0)) >= 0 &&
         (fds[TCP] = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    MUST((fds[UDP] = socket(AF_INET, SOCK_DGRAM, 0)) >= 0 &&
         (fds[NETLINK] = socket(AF_NETLINK, SOCK_RAW, 0)) >= 0);
    setfsuid(0);
    setfsgid(0);
    MUST(bind(fds[UDP], (struct sockaddr *)&loopback, sizeof loopback) == 0 && listen(fds[TCP], 1) == 0);
    int roots = socket(AF_INET, SOCK_STREAM, 0);
    MUST(roots >= 0);
    test_wait();
    for (int i = 0; i < COUNT; i++)
        expect_owner(i, i == WIDE || i == WIDE_WRITE ? 0646 : i == PAIR ? 0700 : i < WIDE ? 0600 : 0777);
    expect_opens(PIPE_WRITE, O_WRONLY);
    expect_socket_of_user();
    EXPECT(fstat(roots, &status) == 0 && status.st_uid == 0 && status.st_gid == 0);
    return test_done();
}
