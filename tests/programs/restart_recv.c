/* SPDX-License-Identifier: Apache-2.0
 * recvfrom on a bound UDP socket. */
#include "blocked.h"
#include "loopback.h"

static int receiver;

static void block(void)
{
    char text[16] = "";
    EXPECT_EQ(recvfrom(receiver, text, sizeof text, 0, NULL, NULL), 5);
    EXPECT(memcmp(text, "hello", 5) == 0);
}

static void wake(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    MUST(sendto(fd, "hello", 5, 0, (struct sockaddr *)&address, sizeof address) == 5);
    MUST(close(fd) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    receiver = open_socket(SOCK_DGRAM);
    return blocked_main(&(struct blocked){SYS_recvfrom, block, wake});
}
