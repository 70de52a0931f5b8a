/* SPDX-License-Identifier: Apache-2.0 */
/* socket_options: of all levels, sticky headers, filters; each set to something that a fresh socket has not. */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <sys/socket.h>
#include "test.h"

struct option {
    int kind, level, number, value;
};

enum { TCP4, TCP6, UDP4, UDP6, UNIX, KINDS };

static const struct option options[] = {
    {TCP4, SOL_SOCKET, SO_PRIORITY, 3},
    {TCP4, SOL_SOCKET, SO_MARK, 77},
    {TCP4, IPPROTO_IP, 1 /* IP_TOS */, 0x10},
    {TCP4, IPPROTO_IP, 2 /* IP_TTL */, 33},
    {TCP4, IPPROTO_IP, 15 /* IP_FREEBIND */, 1},
    {TCP4, IPPROTO_IP, 19 /* IP_TRANSPARENT */, 1},
    {TCP4, IPPROTO_IP, 21 /* IP_MINTTL */, 5},
    {TCP4, IPPROTO_TCP, TCP_NODELAY, 1},
    {TCP4, IPPROTO_TCP, TCP_KEEPIDLE, 123},
    {TCP4, IPPROTO_TCP, TCP_USER_TIMEOUT, 4567},
    {TCP4, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 8192},
    {TCP4, IPPROTO_TCP, TCP_SAVE_SYN, 1},
    {TCP6, IPPROTO_IPV6, IPV6_V6ONLY, 1},
    {TCP6, IPPROTO_IPV6, IPV6_TCLASS, 0x20},
    {TCP6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9},
    {TCP6, IPPROTO_IPV6, IPV6_RECVRTHDR, 1},
    {TCP6, IPPROTO_IPV6, IPV6_MINHOPCOUNT, 7},
    {UDP4, SOL_SOCKET, SO_BROADCAST, 1},
    {UDP4, SOL_SOCKET, SO_NO_CHECK, 1},
    {UDP4, SOL_SOCKET, SO_RXQ_OVFL, 1},
    {UDP4, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1},
    {UDP4, SOL_SOCKET, 75 /* SO_RCVMARK */, 1},
    {UDP4, IPPROTO_IP, 8 /* IP_PKTINFO */, 1},
    {UDP4, IPPROTO_IP, 10 /* IP_MTU_DISCOVER */, 3},
    {UDP4, IPPROTO_IP, 25 /* IP_RECVFRAGSIZE */, 1},
    {UDP4, IPPROTO_IP, 26 /* IP_RECVERR_RFC4884 */, 1},
    {UDP4, IPPROTO_IP, 33 /* IP_MULTICAST_TTL */, 4},
    {UDP4, IPPROTO_IP, 34 /* IP_MULTICAST_LOOP */, 0},
    {UDP4, IPPROTO_UDP, UDP_SEGMENT, 1200},
    {UDP4, IPPROTO_UDP, UDP_GRO, 1},
    {UDP6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1},
    {UDP6, IPPROTO_IPV6, IPV6_RECVDSTOPTS, 1},
    {UDP6, IPPROTO_IPV6, IPV6_RECVPATHMTU, 1},
    {UDP6, IPPROTO_IPV6, IPV6_MULTICAST_IF, 1},
    {UDP6, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1},
    {UNIX, SOL_SOCKET, SO_PASSCRED, 1},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

static const struct sock_filter ten_bytes[] = {BPF_STMT(BPF_RET | BPF_K, 10)};
static int fds[KINDS];

static int value_of(const struct option *option)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fds[option->kind], option->level, option->number, &value, &length) == 0);
    return value;
}

static void expect_filter(int fd)
{
    struct sock_filter found[4];
    socklen_t count = 4;
    EXPECT(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, found, &count) == 0);
    EXPECT_EQ(count, 1);
    EXPECT(memcmp(found, ten_bytes, sizeof ten_bytes) == 0);
}

static void attach(int fd)
{
    struct sock_fprog program = {1, (struct sock_filter *)(uintptr_t)ten_bytes};
    MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

static void expect_filtered(int pair[2])
{
    char text[32];
    EXPECT_EQ(recv(pair[1], text, sizeof text, MSG_DONTWAIT), 17);
    EXPECT(send(pair[0], "longer than that", 16, 0) == 16);
    EXPECT_EQ(recv(pair[1], text, sizeof text, MSG_DONTWAIT), 10);
    struct sock_fprog program = {1, (struct sock_filter *)(uintptr_t)ten_bytes};
    EXPECT(setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 && errno == EPERM);
}

int main(int argc, char **argv)
{
    static const unsigned char destination[8] = {0, 0, 1, 4, 0, 0, 0, 0}, stamps[8] = {68, 8, 5, 0};
    int before[OPTIONS], pair[2], on = 1;
    unsigned char found[64];
    test_init(argc, argv);
    fds[TCP4] = socket(AF_INET, SOCK_STREAM, 0);
    fds[TCP6] = socket(AF_INET6, SOCK_STREAM, 0);
    fds[UDP4] = socket(AF_INET, SOCK_DGRAM, 0);
    fds[UDP6] = socket(AF_INET6, SOCK_DGRAM, 0);
    fds[UNIX] = socket(AF_UNIX, SOCK_DGRAM, 0);
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *one = &options[i];
        MUST(setsockopt(fds[one->kind], one->level, one->number, &one->value, sizeof one->value) == 0);
    }
    MUST(setsockopt(fds[TCP4], SOL_SOCKET, SO_PRIORITY, &on, sizeof on) == 0); /* after IP_TOS */
    MUST(setsockopt(fds[UDP6], IPPROTO_IPV6, IPV6_DSTOPTS, destination, sizeof destination) == 0);
    MUST(setsockopt(fds[UDP4], IPPROTO_IP, 4 /* IP_OPTIONS */, stamps, sizeof stamps) == 0);
    for (int i = 0; i < OPTIONS; i++)
        before[i] = value_of(&options[i]);
    attach(fds[UDP4]);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && send(pair[0], "older than filter", 17, 0) == 17);
    attach(pair[1]);
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof on) == 0);
    test_wait();
    for (int i = 0; i < OPTIONS; i++)
        EXPECT_EQ(value_of(&options[i]), before[i]);
    expect_filter(fds[UDP4]);
    expect_filtered(pair);
    socklen_t length = sizeof found;
    EXPECT(getsockopt(fds[UDP6], IPPROTO_IPV6, IPV6_DSTOPTS, found, &length) == 0 && length == 8);
    EXPECT(memcmp(found, destination, 8) == 0);
    length = sizeof found;
    EXPECT(getsockopt(fds[UDP4], IPPROTO_IP, 4, found, &length) == 0 && length == 8);
    EXPECT(memcmp(found, stamps, 4) == 0);
    return test_done();
}
