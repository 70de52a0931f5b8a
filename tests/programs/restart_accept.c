/* SPDX-License-Identifier: Apache-2.0
 * accept on a listening TCP socket. */
#include "blocked.h"
#include <arpa/inet.h>
#include <sys/socket.h>

static struct sockaddr_in address;
static int listener;

static int open_socket(int type)
{
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, type, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    return fd;
}

static void block(void)
{
    int fd = accept(listener, NULL, NULL);
    EXPECT(fd >= 0);
    EXPECT_EQ(close(fd), 0);
}

static void wake(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(close(fd) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    listener = open_socket(SOCK_STREAM);
    MUST(listen(listener, 5) == 0);
    return blocked_main(&(struct blocked){SYS_accept, block, wake});
}
