/* SPDX-License-Identifier: Apache-2.0 */
/* multicast: groups that sockets have joined, on IPv4 and IPv6. */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include "test.h"

static struct group_filter filter_of(int fd, int level, const struct group_req *group)
{
    struct group_filter filter = {.gf_interface = group->gr_interface, .gf_group = group->gr_group};
    socklen_t length = sizeof filter;
    EXPECT(getsockopt(fd, level, MCAST_MSFILTER, &filter, &length) == 0);
    return filter;
}

int main(int argc, char **argv)
{
    struct group_req four = {.gr_interface = if_nametoindex("lo")}, six = four;
    struct sockaddr_in *address = (struct sockaddr_in *)&four.gr_group;
    struct sockaddr_in6 *address6 = (struct sockaddr_in6 *)&six.gr_group;
    test_init(argc, argv);
    address->sin_family = AF_INET;
    address6->sin6_family = AF_INET6;
    MUST(inet_pton(AF_INET, "239.12.13.14", &address->sin_addr) == 1);
    MUST(inet_pton(AF_INET6, "ff05::1234", &address6->sin6_addr) == 1);
    int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET6, SOCK_DGRAM, 0);
    MUST(one >= 0 && two >= 0);
    MUST(setsockopt(one, IPPROTO_IP, MCAST_JOIN_GROUP, &four, sizeof four) == 0);
    MUST(setsockopt(two, IPPROTO_IPV6, MCAST_JOIN_GROUP, &six, sizeof six) == 0);
    /* Of two sources only, and of all but one. */
    struct {
        struct group_filter filter;
        struct sockaddr_storage more[3];
    } only = {.filter = {four.gr_interface, four.gr_group, MCAST_INCLUDE, 2, {{0}}}}, found = only;
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in *source = (struct sockaddr_in *)&only.filter.gf_slist[i];
        *source =
            (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002U + (unsigned)i)};
    }
    struct group_source_req but = {six.gr_interface, six.gr_group, {0}};
    struct sockaddr_in6 *blocked = (struct sockaddr_in6 *)&but.gsr_source;
    blocked->sin6_family = AF_INET6;
    MUST(inet_pton(AF_INET6, "fd00::5", &blocked->sin6_addr) == 1);
    int three = socket(AF_INET, SOCK_DGRAM, 0), other = socket(AF_INET6, SOCK_DGRAM, 0);
    MUST(setsockopt(three, IPPROTO_IP, MCAST_JOIN_GROUP, &four, sizeof four) == 0);
    MUST(setsockopt(three, IPPROTO_IP, MCAST_MSFILTER, &only, GROUP_FILTER_SIZE(2)) == 0);
    MUST(setsockopt(other, IPPROTO_IPV6, MCAST_JOIN_GROUP, &six, sizeof six) == 0);
    MUST(setsockopt(other, IPPROTO_IPV6, MCAST_BLOCK_SOURCE, &but, sizeof but) == 0);
    test_wait();
    found.filter.gf_numsrc = 4;
    socklen_t length = GROUP_FILTER_SIZE(4);
    EXPECT(getsockopt(three, IPPROTO_IP, MCAST_MSFILTER, &found, &length) == 0);
    EXPECT_EQ(found.filter.gf_fmode, MCAST_INCLUDE);
    EXPECT_EQ(found.filter.gf_numsrc, 2);
    EXPECT_EQ(((struct sockaddr_in *)&found.filter.gf_slist[1])->sin_addr.s_addr, htonl(0x7f000003));
    found.filter.gf_group = six.gr_group;
    found.filter.gf_numsrc = 4;
    length = GROUP_FILTER_SIZE(4);
    EXPECT(getsockopt(other, IPPROTO_IPV6, MCAST_MSFILTER, &found, &length) == 0);
    EXPECT(found.filter.gf_fmode == MCAST_EXCLUDE && found.filter.gf_numsrc == 1);
    EXPECT(memcmp(&((struct sockaddr_in6 *)found.filter.gf_slist)->sin6_addr, &blocked->sin6_addr, 16) == 0);
    EXPECT_EQ(filter_of(one, IPPROTO_IP, &four).gf_fmode, MCAST_EXCLUDE);
    EXPECT_EQ(filter_of(two, IPPROTO_IPV6, &six).gf_fmode, MCAST_EXCLUDE);
    EXPECT(setsockopt(one, IPPROTO_IP, MCAST_LEAVE_GROUP, &four, sizeof four) == 0);
    return test_done();
}
