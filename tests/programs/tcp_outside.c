/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_outside: connections to another process, which tells with the first byte what each is for (live/test_tcp.py).
 *
 * E: established, with unread bytes and bytes on their way to the peer; F: we have shut our side down; C: the peer
 * has; L: the peer has, and then we; B: more is written than fits, so that part of it has never been sent. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include "test.h"

enum { BIG_BYTES = 12 << 20 };

static int connection[256];
static size_t big_written;

static unsigned char pattern(size_t at)
{
    return (unsigned char)(at * 31 + (at >> 12));
}

static int port_of(int fd)
{
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    return ntohs(name.sin6_port);
}

/* Writes on as long as it can: until all is written, or with MSG_DONTWAIT until there is no room. */
static void write_big(int flags)
{
    static unsigned char block[65536];
    while (big_written < BIG_BYTES) {
        size_t length = BIG_BYTES - big_written < sizeof block ? BIG_BYTES - big_written : sizeof block;
        for (size_t i = 0; i < length; i++)
            block[i] = pattern(big_written + i);
        ssize_t done = send(connection['B'], block, length, flags | MSG_NOSIGNAL);
        if (done < 0 && flags && errno == EAGAIN)
            return;
        MUST(done > 0);
        big_written += (size_t)done;
    }
}

static int state_of(int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    EXPECT(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    return info.tcpi_state;
}

static int get(int fd, int level, int option)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, level, option, &value, &length) == 0);
    return value;
}

static void expect_read(int fd, const char *text)
{
    char found[64] = "";
    size_t length = strlen(text), at = 0;
    ssize_t got = 0;
    while (at < length && (got = recv(fd, found + at, length - at, 0)) > 0)
        at += (size_t)got;
    if (at != length || memcmp(found, text, length) != 0)
        test_differs("read %zu bytes \"%s\" (%s), not \"%s\"", at, found, got < 0 ? strerror(errno) : "-",
                     text);
}

static void expect_end(int fd)
{
    char byte;
    EXPECT_EQ(recv(fd, &byte, 1, 0), 0);
}

static void set_up(const char *wanted)
{
    int on = 1;
    for (size_t i = 0; i < strlen(wanted); i++)
        MUST(connection[(unsigned char)wanted[i]] > 0);
    MUST(setsockopt(connection['E'], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    MUST(setsockopt(connection['E'], SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0);
    MUST(setsockopt(connection['E'], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(fcntl(connection['C'], F_SETFL, O_NONBLOCK) == 0);
    MUST(send(connection['E'], "on its way", 10, 0) == 10);
    MUST(send(connection['F'], "last", 4, 0) == 4 && shutdown(connection['F'], SHUT_WR) == 0);
    MUST(send(connection['L'], "ours", 4, 0) == 4 && shutdown(connection['L'], SHUT_WR) == 0);
    write_big(MSG_DONTWAIT);
    MUST(big_written > 0 && big_written < BIG_BYTES);
}

static void look(void)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    EXPECT_EQ(state_of(connection['E']), TCP_ESTABLISHED);
    EXPECT_EQ(state_of(connection['C']), TCP_CLOSE_WAIT);
    EXPECT_EQ(get(connection['E'], IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(get(connection['E'], SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(get(connection['E'], SOL_SOCKET, SO_REUSEADDR), 1);
    EXPECT_EQ(get(connection['B'], SOL_SOCKET, SO_REUSEADDR), 0);
    EXPECT_EQ(fcntl(connection['C'], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    MUST(fcntl(connection['C'], F_SETFL, 0) == 0);
    EXPECT(getsockopt(connection['E'], IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    EXPECT((info.tcpi_options & 7) == 7 && info.tcpi_snd_wscale > 0 && info.tcpi_rcv_wscale > 0);
}

static void go_on(void)
{
    int *one = connection;
    expect_read(one['E'], "unread meanwhile");
    EXPECT(send(one['E'], "echo", 4, MSG_NOSIGNAL) == 4);
    expect_read(one['E'], "thanks");
    EXPECT(send(one['F'], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    expect_read(one['F'], "late");
    expect_end(one['F']);
    expect_read(one['C'], "before the end");
    expect_end(one['C']);
    EXPECT(send(one['C'], "reply", 5, MSG_NOSIGNAL) == 5 && close(one['C']) == 0);
    expect_read(one['L'], "before");
    expect_end(one['L']);
    write_big(0);
    expect_read(one['B'], "all right");
}

/* What had come is there, and then the reset, or the end that had come before. */
static void expect_forgotten(int fd, const char *unread, int has_ended)
{
    char byte;
    expect_read(fd, unread);
    ssize_t got = recv(fd, &byte, 1, 0);
    EXPECT(got < 0 ? errno == ECONNRESET : got == 0 && has_ended);
    EXPECT_EQ(state_of(fd), TCP_CLOSE);
    EXPECT(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

static void go_on_alone(void)
{
    expect_forgotten(connection['E'], "unread", 0);
    expect_forgotten(connection['F'], "", 0);
    expect_forgotten(connection['C'], "before the end", 1);
    expect_forgotten(connection['L'], "before", 1);
    expect_forgotten(connection['B'], "", 0);
}

/* Opens what cannot be checkpointed, where the test wants that. */
static void refuse_if_told(void)
{
    struct timespec pause = {.tv_nsec = 2000000};
    if (access(test_path("refuse"), F_OK) == 0) {
        MUST(syscall(SYS_userfaultfd, O_CLOEXEC) > 0);
        MUST(unlink(test_path("refuse")) == 0);
    }
    nanosleep(&pause, NULL);
}

int main(int argc, char **argv)
{
    static const char wanted[] = "EFCLB";
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char port[16], path[4096];
    test_init(argc, argv);
    int six = access(test_path("six"), F_OK) == 0;
    int listener = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0), small = 65536, on = 1, off = 0;
    /* Or who still waits for late segments on the port would keep it from us. */
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(bind(listener, six ? (void *)&any : (void *)&four, six ? sizeof any : sizeof four) == 0);
    MUST(listen(listener, 8) == 0);
    snprintf(port, sizeof port, "%d\n", port_of(listener));
    int file = open(test_path("port.draft"), O_WRONLY | O_CREAT, 0600);
    MUST(write(file, port, strlen(port)) > 0 && close(file) == 0);
    snprintf(path, sizeof path, "%s/port", test_workdir);
    MUST(rename(test_path("port.draft"), path) == 0);
    for (size_t i = 0; i < strlen(wanted); i++) {
        unsigned char role;
        int fd = accept(listener, NULL, NULL);
        MUST(fd > 0 && read(fd, &role, 1) == 1);
        connection[role] = fd;
    }
    MUST(setsockopt(connection['B'], SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
    MUST(setsockopt(connection['B'], SOL_SOCKET, SO_REUSEADDR, &off, sizeof off) == 0);
    set_up(wanted);
    /* The peer says when it has seen and done its part. */
    expect_read(connection['E'], "set");
    test_ready();
    while (!test_may_go())
        refuse_if_told();
    if (access(test_path("forgotten"), F_OK) == 0) {
        go_on_alone();
    } else {
        look();
        go_on();
    }
    EXPECT_EQ(port_of(listener), atoi(port));
    return test_done();
}
