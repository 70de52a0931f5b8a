/* SPDX-License-Identifier: Apache-2.0
 * accept on a listening TCP socket. */
#include "blocked.h"
#include "loopback.h"

static int listener;

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
