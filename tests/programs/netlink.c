/* SPDX-License-Identifier: Apache-2.0 */
/* netlink: sockets of several families with ports, groups, options, and one that is connected to another. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include "test.h"

enum { LINK_GROUP = RTNLGRP_LINK, HIGH_GROUP = RTNLGRP_NSID };

static struct sockaddr_nl name_of(int fd)
{
    struct sockaddr_nl name = {0};
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    return name;
}

static int make(int type, int family, unsigned port)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = port};
    int fd = socket(AF_NETLINK, type, family);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
    return fd;
}

static int option(int fd, int number)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, SOL_NETLINK, number, &value, &length) == 0);
    return value;
}

static void set(int fd, int number, int value)
{
    MUST(setsockopt(fd, SOL_NETLINK, number, &value, sizeof value) == 0);
}

static int has_group(int fd, unsigned group)
{
    unsigned words[16] = {0};
    socklen_t length = sizeof words;
    EXPECT(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &length) == 0);
    return words[(group - 1) / 32] >> (group - 1) % 32 & 1;
}

/* Asks for all links; the answers carry the socket's port, which is what they are known by. */
static void dump(int fd, unsigned port)
{
    struct {
        struct nlmsghdr head;
        struct rtgenmsg family;
    } request = {.head = {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}};
    static char answer[65536];
    int links = 0;
    EXPECT(send(fd, &request, sizeof request, 0) == sizeof request);
    for (;;) {
        int left = (int)recv(fd, answer, sizeof answer, 0);
        EXPECT(left > 0);
        if (left <= 0)
            return;
        for (struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            EXPECT(head->nlmsg_seq == 7 && head->nlmsg_pid == port);
            if (head->nlmsg_type == NLMSG_DONE) {
                EXPECT(links > 0);
                return;
            }
            links += head->nlmsg_type == RTM_NEWLINK;
        }
    }
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int fresh = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int route = make(SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE, 0);
    int uevent = make(SOCK_DGRAM, NETLINK_KOBJECT_UEVENT, 0), diag = make(SOCK_RAW, NETLINK_SOCK_DIAG, 0);
    int sender = make(SOCK_RAW, NETLINK_USERSOCK, 0), receiver = make(SOCK_RAW, NETLINK_USERSOCK, 0);
    int asker = make(SOCK_RAW, NETLINK_ROUTE, 0), on = 1;
    struct sockaddr_nl to = name_of(receiver), from = name_of(sender), peer = {0};
    unsigned ports[] = {name_of(route).nl_pid, name_of(uevent).nl_pid, name_of(diag).nl_pid};
    unsigned asking = name_of(asker).nl_pid;
    socklen_t length = sizeof peer;
    char text[16];
    set(route, NETLINK_ADD_MEMBERSHIP, LINK_GROUP);
    set(route, NETLINK_ADD_MEMBERSHIP, HIGH_GROUP);
    set(route, NETLINK_EXT_ACK, 1);
    set(uevent, NETLINK_ADD_MEMBERSHIP, 1);
    MUST(setsockopt(uevent, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    MUST(connect(sender, (struct sockaddr *)&to, sizeof to) == 0);
    test_wait();
    EXPECT_EQ(name_of(route).nl_pid, ports[0]);
    EXPECT_EQ(name_of(uevent).nl_pid, ports[1]);
    EXPECT_EQ(name_of(diag).nl_pid, ports[2]);
    EXPECT_EQ(name_of(fresh).nl_pid, 0);
    EXPECT(has_group(route, LINK_GROUP) && has_group(route, HIGH_GROUP) && !has_group(route, RTNLGRP_NEIGH));
    EXPECT(has_group(uevent, 1) && !has_group(diag, 1));
    EXPECT(option(route, NETLINK_EXT_ACK) == 1 && option(diag, NETLINK_EXT_ACK) == 0);
    EXPECT(fcntl(route, F_GETFL) & O_NONBLOCK && fcntl(fresh, F_GETFD) == FD_CLOEXEC);
    on = 0;
    length = sizeof on;
    EXPECT(getsockopt(uevent, SOL_SOCKET, SO_PASSCRED, &on, &length) == 0 && on == 1);
    dump(asker, asking);
    EXPECT(recv(route, text, sizeof text, 0) < 0 && errno == EAGAIN);
    length = sizeof peer;
    EXPECT(getpeername(sender, (struct sockaddr *)&peer, &length) == 0 && peer.nl_pid == to.nl_pid);
    EXPECT(send(sender, "word", 4, 0) == 4);
    length = sizeof peer;
    EXPECT(recvfrom(receiver, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&peer, &length) == 4);
    EXPECT_EQ(peer.nl_pid, from.nl_pid);
    return test_done();
}
