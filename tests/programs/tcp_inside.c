/* SPDX-License-Identifier: Apache-2.0
 * TCP connections with both ends in the image: within one process and between parent and child, with bytes under way in
 * both directions, one of them half closed.
 */
#include "tree.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static int listener;

static void accept_pair(int pair[2])
{
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    MUST(getsockname(listener, (struct sockaddr *)&name, &length) == 0);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    MUST(connect(pair[0], (struct sockaddr *)&name, length) == 0);
    pair[1] = accept(listener, NULL, NULL);
    MUST(pair[1] >= 0);
}

static int reads(int fd, const char *text)
{
    char found[64];
    size_t length = strlen(text);
    return recv(fd, found, length, MSG_WAITALL) == (ssize_t)length && memcmp(found, text, length) == 0;
}

static int serve(char asked, void *argument)
{
    int fd = *(int *)argument;
    if (asked == 'w') {
        CHECK(send(fd, "from the child", 14, 0) == 14);
        return 0;
    }
    CHECK(reads(fd, "from the parent"));
    CHECK(send(fd, "and on", 6, 0) == 6);
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int own[2], half[2], family[2];
    char byte;
    test_init(argc, argv);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(listener, (struct sockaddr *)&name, sizeof name) == 0 && listen(listener, 4) == 0);
    accept_pair(own);
    accept_pair(half);
    accept_pair(family);
    struct child child = tree_fork(serve, &family[1]);
    MUST(close(family[1]) == 0 && tree_ask(&child, 'w') == 0);
    MUST(send(family[0], "from the parent", 15, 0) == 15);
    MUST(send(own[0], "one way", 7, 0) == 7 && send(own[1], "the other", 9, 0) == 9);
    MUST(send(half[0], "last words", 10, 0) == 10 && shutdown(half[0], SHUT_WR) == 0);
    test_wait();
    EXPECT(reads(own[1], "one way") && reads(own[0], "the other"));
    EXPECT(reads(half[1], "last words") && recv(half[1], &byte, 1, 0) == 0);
    EXPECT(send(half[1], "still", 5, 0) == 5 && reads(half[0], "still"));
    EXPECT(reads(family[0], "from the child"));
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT(reads(family[0], "and on"));
    accept_pair(own);
    EXPECT(send(own[0], "new", 3, 0) == 3 && reads(own[1], "new"));
    EXPECT_EQ(tree_end(&child), 0);
    EXPECT_EQ(recv(family[0], &byte, 1, 0), 0);
    return test_done();
}
