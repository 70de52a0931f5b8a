/* SPDX-License-Identifier: Apache-2.0
 * Packet sockets on the loopback interface: protocols, memberships, options, a filter that is locked. */
#include "test.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* EtherTypes, behind `types`: other copies of this program, which may be about, have others. */
enum { BY_RAW, BY_DGRAM, FILTERED, STRANGE, TYPES, LO = 1, HEADER = 14 };

struct packet {
    struct ethhdr head;
    char text[26];
};

static int types;

static struct sockaddr_ll address(int protocol, int interface)
{
    return (struct sockaddr_ll){
        .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol), .sll_ifindex = interface};
}

static int make(int type, int protocol, int interface)
{
    struct sockaddr_ll name = address(protocol, interface);
    int fd = socket(AF_PACKET, type, 0);
    MUST(fd >= 0 && (!protocol || bind(fd, (struct sockaddr *)&name, sizeof name) == 0));
    return fd;
}

static void set(int fd, int level, int number, int value)
{
    MUST(setsockopt(fd, level, number, &value, sizeof value) == 0);
}

static int get(int fd, int level, int number)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, level, number, &value, &length) == 0);
    return value;
}

static void expect_name(int fd, int protocol, int interface)
{
    struct sockaddr_ll name = {0};
    socklen_t length = sizeof name;
    EXPECT(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    EXPECT_EQ(ntohs(name.sll_protocol), protocol);
    EXPECT_EQ(name.sll_ifindex, interface);
}

/* Everything with one EtherType. */
static void set_filter(int fd, int protocol)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)protocol, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
    set(fd, SOL_SOCKET, SO_LOCK_FILTER, 1);
}

static struct packet_mreq membership(int type)
{
    struct packet_mreq request = {.mr_ifindex = LO, .mr_type = (unsigned short)type};
    if (type == PACKET_MR_MULTICAST) {
        request.mr_alen = 6;
        memcpy(request.mr_address, "\1\0\x5e\1\2\3", 6);
    }
    return request;
}

static void join(int fd, int type)
{
    struct packet_mreq request = membership(type);
    MUST(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) == 0);
}

static void leave(int fd, int type)
{
    struct packet_mreq request = membership(type);
    EXPECT(setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &request, sizeof request) == 0);
}

/* How often a packet socket is a member, as the kernel tells those who ask for all packet sockets. */
static unsigned count_in(const struct packet_diag_msg *one, size_t bytes, unsigned inode, int type)
{
    struct rtattr *attribute = (struct rtattr *)(one + 1);
    size_t left = bytes - sizeof *one;
    for (; one->pdiag_ino == inode && RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
        const struct packet_diag_mclist *member = RTA_DATA(attribute);
        size_t members = RTA_PAYLOAD(attribute) / sizeof *member;
        for (; attribute->rta_type == PACKET_DIAG_MCLIST && members > 0; members--, member++)
            if (member->pdmc_type == type && member->pdmc_index == LO)
                return member->pdmc_count;
    }
    return 0;
}

static unsigned memberships(int fd, int type)
{
    struct {
        struct nlmsghdr head;
        struct packet_diag_req body;
    } request = {{sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0},
                 {.sdiag_family = AF_PACKET, .pdiag_show = PACKET_SHOW_MCLIST}};
    static char answer[65536];
    struct stat status;
    unsigned count = 0;
    int diag = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), done = 0;
    EXPECT(fstat(fd, &status) == 0 && send(diag, &request, sizeof request, 0) == sizeof request);
    while (!done) {
        int left = (int)recv(diag, answer, sizeof answer, 0);
        done = left <= 0;
        for (struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type == SOCK_DIAG_BY_FAMILY)
                count += count_in(NLMSG_DATA(head), NLMSG_PAYLOAD(head, 0), (unsigned)status.st_ino, type);
            done |= head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR;
        }
    }
    close(diag);
    return count;
}

static void send_packet(int fd, int protocol, const char *text)
{
    struct sockaddr_ll to = address(protocol, LO);
    struct packet packet = {.head.h_proto = htons((uint16_t)protocol)};
    to.sll_halen = 6;
    strcpy(packet.text, text);
    EXPECT(sendto(fd, &packet, sizeof packet, 0, (struct sockaddr *)&to, sizeof to) == sizeof packet);
}

/* With `head` bytes before what was sent behind the header. */
static void expect_packet(int fd, size_t head, const char *text)
{
    struct packet packet;
    ssize_t got = recv(fd, (char *)&packet + HEADER - head, sizeof packet - HEADER + head, 0);
    EXPECT_EQ(got, sizeof packet - HEADER + head);
    EXPECT(got > 0 && strcmp(packet.text, text) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    types = 0x0a00 + getpid() % 6000 * TYPES;
    int raw = make(SOCK_RAW | SOCK_NONBLOCK, types + BY_RAW, LO),
        dgram = make(SOCK_DGRAM, types + BY_DGRAM, 0);
    int none = make(SOCK_RAW, 0, 0), all = make(SOCK_RAW, 0, 0);
    struct sockaddr_ll everything = address(ETH_P_ALL, LO);
    set(raw, SOL_PACKET, PACKET_AUXDATA, 1);
    set(raw, SOL_SOCKET, SO_RCVBUF, 100000);
    set(dgram, SOL_PACKET, PACKET_ORIGDEV, 1);
    set(dgram, SOL_PACKET, PACKET_TIMESTAMP, 1 << 3);
    set(all, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    set_filter(all, types + FILTERED);
    join(all, PACKET_MR_PROMISC);
    join(all, PACKET_MR_PROMISC);
    join(dgram, PACKET_MR_MULTICAST);
    MUST(bind(all, (struct sockaddr *)&everything, sizeof everything) == 0);
    test_wait();
    expect_name(raw, types + BY_RAW, LO);
    expect_name(dgram, types + BY_DGRAM, 0);
    expect_name(none, 0, 0);
    expect_name(all, ETH_P_ALL, LO);
    EXPECT_EQ(get(raw, SOL_PACKET, PACKET_AUXDATA), 1);
    EXPECT_EQ(get(raw, SOL_SOCKET, SO_RCVBUF), 200000);
    EXPECT(fcntl(raw, F_GETFL) & O_NONBLOCK);
    EXPECT_EQ(get(dgram, SOL_PACKET, PACKET_ORIGDEV), 1);
    EXPECT_EQ(get(dgram, SOL_PACKET, PACKET_TIMESTAMP), 1 << 3);
    EXPECT_EQ(get(all, SOL_PACKET, PACKET_IGNORE_OUTGOING), 1);
    EXPECT_EQ(get(all, SOL_SOCKET, SO_LOCK_FILTER), 1);
    EXPECT_EQ(memberships(all, PACKET_MR_PROMISC), 2);
    EXPECT_EQ(memberships(dgram, PACKET_MR_MULTICAST), 1);
    EXPECT_EQ(memberships(all, PACKET_MR_MULTICAST) + memberships(raw, PACKET_MR_PROMISC), 0);
    leave(all, PACKET_MR_PROMISC);
    EXPECT_EQ(memberships(all, PACKET_MR_PROMISC), 1);
    fcntl(raw, F_SETFL, 0);
    send_packet(none, types + STRANGE, "strange");
    send_packet(none, types + FILTERED, "filtered");
    send_packet(none, types + BY_RAW, "raw");
    send_packet(raw, types + BY_DGRAM, "dgram");
    expect_packet(raw, HEADER, "raw");
    expect_packet(dgram, 0, "dgram");
    expect_packet(all, HEADER, "filtered");
    char rest;
    EXPECT(recv(all, &rest, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    return test_done();
}
