/* SPDX-License-Identifier: Apache-2.0 */
/* udp: bound, connected and fresh sockets. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include "test.h"

static struct sockaddr_in name_of(int fd)
{
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    EXPECT(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    return name;
}

int main(int argc, char **argv)
{
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                       peer = {0};
    socklen_t length = sizeof peer;
    char text[16];
    int on = 1;
    test_init(argc, argv);
    int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    int fresh = socket(AF_INET6, SOCK_DGRAM, 0);
    MUST(bind(server, (struct sockaddr *)&loopback, sizeof loopback) == 0);
    MUST(setsockopt(server, SOL_SOCKET, SO_BROADCAST, &on, sizeof on) == 0);
    struct sockaddr_in address = name_of(server);
    MUST(connect(client, (struct sockaddr *)&address, sizeof address) == 0 && fresh >= 0);
    struct sockaddr_in own = name_of(client);
    test_wait();
    EXPECT_EQ(name_of(server).sin_port, address.sin_port);
    EXPECT_EQ(name_of(client).sin_port, own.sin_port);
    EXPECT(getpeername(client, (struct sockaddr *)&peer, &length) == 0 && peer.sin_port == address.sin_port);
    on = 0;
    length = sizeof on;
    EXPECT(getsockopt(server, SOL_SOCKET, SO_BROADCAST, &on, &length) == 0 && on == 1);
    EXPECT(send(client, "ping", 4, 0) == 4 && recv(server, text, sizeof text, 0) == 4);
    EXPECT(recv(client, text, sizeof text, 0) < 0 && errno == EAGAIN);
    EXPECT_EQ(name_of(fresh).sin_port, 0);
    return test_done();
}
