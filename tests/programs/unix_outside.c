/* SPDX-License-Identifier: Apache-2.0 */
/* unix_outside: connected to names that others serve, and accepted from others (tests/live/test_unix_outside.py). */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/un.h>
#include "test.h"

static int dial(int type, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", test_path(name));
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", test_path(name));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 5) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    char text[64];
    struct sockaddr_un name = {0};
    socklen_t length = sizeof name;
    test_init(argc, argv);
    int log = dial(SOCK_DGRAM, "log"), stream = dial(SOCK_STREAM, "stream"),
        packets = dial(SOCK_SEQPACKET, "packets");
    int server = listen_at("own"), accepted = accept(server, NULL, NULL);
    MUST(send(stream, "hello", 5, 0) == 5 && send(log, "before", 6, 0) == 6 && accepted >= 0);
    MUST(recv(accepted, text, 5, MSG_PEEK | MSG_WAITALL) == 5);
    test_wait();
    EXPECT(send(log, "after", 5, MSG_DONTWAIT) == 5);
    EXPECT(send(stream, "anew", 4, MSG_NOSIGNAL) == 4 && recv(stream, text, sizeof text, 0) == 6);
    EXPECT(memcmp(text, "answer", 6) == 0);
    EXPECT(send(packets, "packet", 6, MSG_NOSIGNAL) == 6);
    EXPECT(getpeername(stream, (struct sockaddr *)&name, &length) == 0);
    EXPECT(strcmp(name.sun_path, test_path("stream")) == 0);
    EXPECT(recv(accepted, text, sizeof text, 0) == 5 && memcmp(text, "early", 5) == 0);
    EXPECT(recv(accepted, text, sizeof text, 0) == 0);
    length = sizeof name;
    EXPECT(getsockname(accepted, (struct sockaddr *)&name, &length) == 0);
    EXPECT(strcmp(name.sun_path, test_path("own")) == 0);
    return test_done();
}
