/* SPDX-License-Identifier: Apache-2.0 */
/* tcp: listening sockets with their options, on IPv4 and IPv6, and sockets that are not connected. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include "test.h"

static int get(int fd, int level, int option)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, level, option, &value, &length) == 0);
    return value;
}

static void set(int fd, int level, int option, int value)
{
    MUST(setsockopt(fd, level, option, &value, sizeof value) == 0);
}

static int port_of(int fd)
{
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    EXPECT(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    return ntohs(name.sin6_port);
}

/* A connection is made, taken and used. */
static void expect_service(int listener, struct sockaddr *address, socklen_t length)
{
    char byte = 0;
    int client = socket(address->sa_family, SOCK_STREAM, 0);
    EXPECT(connect(client, address, length) == 0 && write(client, "?", 1) == 1);
    int server = accept(listener, NULL, NULL);
    EXPECT(server >= 0 && read(server, &byte, 1) == 1 && byte == '?');
    close(server);
    close(client);
}

int main(int argc, char **argv)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct linger linger = {1, 7};
    struct timeval timeout = {3, 500000};
    socklen_t length;
    test_init(argc, argv);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), plain = socket(AF_INET, SOCK_STREAM, 0);
    int dual = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), bound = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(listener, (struct sockaddr *)&four, sizeof four) == 0 && listen(listener, 17) == 0);
    MUST(bind(dual, (struct sockaddr *)&six, sizeof six) == 0 && listen(dual, 5) == 0);
    MUST(bind(bound, (struct sockaddr *)&four, sizeof four) == 0);
    set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
    set(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3);
    set(listener, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(listener, SOL_SOCKET, SO_RCVBUF, 65536);
    set(plain, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    set(plain, IPPROTO_IP, IP_TOS, 0x10);
    MUST(setsockopt(plain, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    MUST(setsockopt(plain, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
    int ports[] = {port_of(listener), port_of(dual), port_of(bound)},
        rcvbuf = get(listener, SOL_SOCKET, SO_RCVBUF);
    test_wait();
    EXPECT_EQ(port_of(listener), ports[0]);
    EXPECT_EQ(port_of(dual), ports[1]);
    EXPECT_EQ(port_of(bound), ports[2]);
    EXPECT_EQ(fcntl(listener, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(listener, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(fcntl(dual, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EXPECT_EQ(get(listener, SOL_SOCKET, SO_REUSEADDR), 0);
    EXPECT_EQ(get(listener, SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(get(listener, SOL_SOCKET, SO_RCVBUF), rcvbuf);
    EXPECT_EQ(get(listener, IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(get(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT), 3);
    EXPECT_EQ(get(plain, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    EXPECT_EQ(get(plain, IPPROTO_IP, IP_TOS), 0x10);
    EXPECT(getsockopt(plain, SOL_SOCKET, SO_LINGER, &linger, (length = sizeof linger, &length)) == 0);
    EXPECT_EQ(linger.l_linger, 7);
    EXPECT(getsockopt(plain, SOL_SOCKET, SO_RCVTIMEO, &timeout, (length = sizeof timeout, &length)) == 0);
    EXPECT(timeout.tv_sec == 3 && timeout.tv_usec == 500000);
    /* tcpi_sacked of a listener is its backlog, tcpi_unacked what waits in it: tcp_get_info */
    struct tcp_info info;
    EXPECT(getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, (length = sizeof info, &length)) == 0);
    EXPECT_EQ(info.tcpi_sacked, 17);
    four.sin_port = htons((uint16_t)ports[0]);
    expect_service(listener, (struct sockaddr *)&four, sizeof four);
    four.sin_port = htons((uint16_t)ports[1]);
    fcntl(dual, F_SETFL, 0);
    expect_service(dual, (struct sockaddr *)&four, sizeof four);
    return test_done();
}
