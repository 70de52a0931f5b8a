/* SPDX-License-Identifier: Apache-2.0 */
/* datagrams: unread ones with their senders, by IPv4, IPv6 and both; raw sockets with filters and peers. */
#include <arpa/inet.h>
#include <linux/icmp.h>
#include <sys/socket.h>
#include "test.h"

static int bound(int family, const char *host)
{
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    int fd = socket(family, SOCK_DGRAM, 0);
    if (family == AF_INET) {
        MUST(inet_pton(AF_INET, host, &four.sin_addr) == 1);
        MUST(bind(fd, (struct sockaddr *)&four, sizeof four) == 0);
    } else {
        MUST(inet_pton(AF_INET6, host, &six.sin6_addr) == 1);
        MUST(bind(fd, (struct sockaddr *)&six, sizeof six) == 0);
    }
    return fd;
}

static void name_of(int fd, struct sockaddr_storage *name)
{
    socklen_t length = sizeof *name;
    memset(name, 0, sizeof *name);
    MUST(getsockname(fd, (struct sockaddr *)name, &length) == 0);
}

static void post(int from, int to, const char *text)
{
    struct sockaddr_storage name;
    name_of(to, &name);
    MUST(sendto(from, text, strlen(text), 0, (struct sockaddr *)&name, sizeof name) == (ssize_t)strlen(text));
}

static void expect(int fd, const char *text, int from)
{
    struct sockaddr_storage name, sender = {0};
    socklen_t length = sizeof sender;
    char found[64] = {0};
    name_of(from, &name);
    EXPECT_EQ(recvfrom(fd, found, sizeof found, MSG_DONTWAIT, (struct sockaddr *)&sender, &length),
              strlen(text));
    EXPECT(strcmp(found, text) == 0);
    EXPECT(memcmp(&sender, &name, length) == 0);
}

/* By IPv4, to an IPv6 socket: the sender shows as a mapped address. */
static void expect_mapped(int fd, const char *text, int from)
{
    struct sockaddr_storage name;
    struct sockaddr_in6 sender = {0};
    socklen_t length = sizeof sender;
    char found[64] = {0};
    name_of(from, &name);
    EXPECT(recvfrom(fd, found, sizeof found, MSG_DONTWAIT, (struct sockaddr *)&sender, &length) > 0);
    EXPECT(strcmp(found, text) == 0 && IN6_IS_ADDR_V4MAPPED(&sender.sin6_addr));
    EXPECT_EQ(sender.sin6_port, ((struct sockaddr_in *)&name)->sin_port);
}

int main(int argc, char **argv)
{
    struct icmp_filter only = {~(1U << ICMP_ECHOREPLY)}, filter = {0};
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                       peer = {0};
    int on = 1, value = 0;
    test_init(argc, argv);
    int four = bound(AF_INET, "0.0.0.0"), six = bound(AF_INET6, "::1"), both = bound(AF_INET6, "::");
    int sender = bound(AF_INET, "127.0.0.5"), sender6 = bound(AF_INET6, "::1"),
        spare = bound(AF_INET, "127.0.0.1");
    struct sockaddr_storage target;
    name_of(four, &target);
    ((struct sockaddr_in *)&target)->sin_addr.s_addr = htonl(0x7f000007);
    MUST(sendto(sender, "first", 5, 0, (struct sockaddr *)&target, sizeof target) == 5);
    MUST(sendto(sender, "", 0, 0, (struct sockaddr *)&target, sizeof target) == 0);
    post(spare, four, "second");
    post(sender6, six, "by six");
    ((struct sockaddr_in *)&target)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct sockaddr_storage dual;
    name_of(both, &dual);
    ((struct sockaddr_in *)&target)->sin_port = ((struct sockaddr_in6 *)&dual)->sin6_port;
    MUST(sendto(spare, "by four", 7, 0, (struct sockaddr *)&target, sizeof target) == 7);
    name_of(spare, &target);
    MUST(sendto(sender, "before it had a peer", 20, 0, (struct sockaddr *)&target, sizeof target) == 20);
    name_of(four, &target);
    ((struct sockaddr_in *)&target)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(connect(spare, (struct sockaddr *)&target, sizeof target) == 0);
    int raw = socket(AF_INET, SOCK_RAW, 253), header = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    MUST(connect(raw, (struct sockaddr *)&loopback, sizeof loopback) == 0);
    MUST(setsockopt(header, IPPROTO_IP, 3 /* IP_HDRINCL */, &on, sizeof on) == 0);
    MUST(setsockopt(header, 255 /* SOL_RAW */, ICMP_FILTER, &only, sizeof only) == 0);
    test_wait();
    expect(four, "first", sender);
    expect(four, "", sender);
    expect(four, "second", spare);
    expect(six, "by six", sender6);
    expect_mapped(both, "by four", spare);
    expect(spare, "before it had a peer", sender);
    char text[64];
    EXPECT(recv(four, text, sizeof text, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    socklen_t length = sizeof filter;
    EXPECT(getsockopt(header, 255, ICMP_FILTER, &filter, &length) == 0 && filter.data == only.data);
    length = sizeof value;
    EXPECT(getsockopt(header, IPPROTO_IP, 3, &value, &length) == 0 && value == 1);
    EXPECT(send(raw, "raw", 3, 0) == 3);
    length = sizeof peer;
    EXPECT(recvfrom(raw, text, sizeof text, 0, (struct sockaddr *)&peer, &length) == 23);
    EXPECT(memcmp(text + 20, "raw", 3) == 0 && peer.sin_addr.s_addr == loopback.sin_addr.s_addr);
    return test_done();
}
