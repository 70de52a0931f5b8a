/* SPDX-License-Identifier: Apache-2.0 */
/* unix_connections: connected by name within the tree: both names, what is under way, who waits to be accepted, ends
 * that have gone. */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "test.h"

enum { PATH, RELATIVE, ABSTRACT, PACKETS, SERVERS };

static struct sockaddr_un names[SERVERS];
static socklen_t lengths[SERVERS];

static void name(int which, const char *path)
{
    names[which].sun_family = AF_UNIX;
    snprintf(names[which].sun_path, sizeof names[which].sun_path, "%s", path);
    lengths[which] = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

static void name_abstract(int which)
{
    names[which].sun_family = AF_UNIX;
    int length =
        snprintf(names[which].sun_path + 1, sizeof names[which].sun_path - 1, "connections %d", getpid());
    lengths[which] = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int serve(int which, int type)
{
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&names[which], lengths[which]) == 0 && listen(fd, 5) == 0);
    return fd;
}

static int dial(int which, int type)
{
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0 && connect(fd, (struct sockaddr *)&names[which], lengths[which]) == 0);
    return fd;
}

static void expect_names(int client, int server, int which)
{
    struct sockaddr_un here = {0}, there = {0};
    socklen_t length = sizeof here;
    EXPECT(getsockname(server, (struct sockaddr *)&here, &length) == 0);
    EXPECT_EQ(length, lengths[which]);
    EXPECT(memcmp(&here, &names[which], lengths[which]) == 0);
    length = sizeof there;
    EXPECT(getpeername(client, (struct sockaddr *)&there, &length) == 0);
    EXPECT_EQ(length, lengths[which]);
    EXPECT(memcmp(&there, &names[which], lengths[which]) == 0);
}

static void expect_text(int fd, const char *expected)
{
    char text[64] = {0};
    EXPECT_EQ(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), strlen(expected));
    EXPECT(strcmp(text, expected) == 0);
}

static void expect_talk(int one, int other)
{
    EXPECT(send(one, "and more", 8, MSG_DONTWAIT) == 8);
    expect_text(other, "and more");
    EXPECT(send(other, "back", 4, MSG_DONTWAIT) == 4);
    expect_text(one, "back");
}

/* The client has a name, too. */
static int dial_bound(int which, struct sockaddr_un *own)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    *own = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(own->sun_path, sizeof own->sun_path, "%s", test_path("client"));
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)own, sizeof *own) == 0);
    MUST(connect(fd, (struct sockaddr *)&names[which], lengths[which]) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    static const int types[SERVERS] = {SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_SEQPACKET};
    int listeners[SERVERS], clients[SERVERS], servers[SERVERS];
    struct sockaddr_un own, found = {0};
    test_init(argc, argv);
    MUST(chdir(test_workdir) == 0);
    name(PATH, test_path("path"));
    name(RELATIVE, "relative");
    name_abstract(ABSTRACT);
    name(PACKETS, test_path("packets"));
    for (int i = 0; i < SERVERS; i++) {
        listeners[i] = serve(i, types[i]);
        clients[i] = dial(i, types[i]);
        servers[i] = accept(listeners[i], NULL, NULL);
        MUST(servers[i] >= 0);
        MUST(write(clients[i], "to the server", 13) == 13 && write(servers[i], "to the client", 13) == 13);
    }
    MUST(write(clients[PACKETS], "", 0) == 0 && write(clients[PACKETS], "after nothing", 13) == 13);
    int bound = dial_bound(PATH, &own), of_bound = accept(listeners[PATH], NULL, NULL);
    int first = dial(PATH, SOCK_STREAM), second = dial(PATH, SOCK_STREAM);
    int left = dial(PATH, SOCK_STREAM), alone;
    MUST(of_bound >= 0);
    close(accept(listeners[PATH], NULL, NULL)); /* `first` has lost its peer */
    int reset = dial(RELATIVE, SOCK_STREAM), unread = accept(listeners[RELATIVE], NULL, NULL);
    MUST(write(reset, "never read", 10) == 10 && close(unread) == 0);
    /* Nobody listens there any more. */
    close(listeners[ABSTRACT]);
    test_wait();
    for (int i = 0; i < SERVERS; i++) {
        expect_names(clients[i], servers[i], i);
        expect_text(servers[i], "to the server");
        expect_text(clients[i], "to the client");
        if (i == PACKETS) {
            expect_text(servers[i], "");
            expect_text(servers[i], "after nothing");
        }
        expect_talk(clients[i], servers[i]);
    }
    expect_names(bound, of_bound, PATH);
    socklen_t length = sizeof found;
    EXPECT(getpeername(of_bound, (struct sockaddr *)&found, &length) == 0);
    EXPECT(strcmp(found.sun_path, own.sun_path) == 0);
    expect_talk(bound, of_bound);
    int of_second = accept4(listeners[PATH], NULL, NULL, SOCK_NONBLOCK);
    EXPECT(of_second >= 0);
    expect_names(second, of_second, PATH);
    expect_talk(second, of_second);
    expect_text(first, "");
    expect_names(first, of_second, PATH);
    EXPECT(send(first, "z", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    EXPECT(recv(reset, own.sun_path, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET);
    alone = accept(listeners[PATH], NULL, NULL);
    EXPECT(write(left, "last words", 10) == 10 && close(left) == 0);
    expect_text(alone, "last words");
    expect_text(alone, "");
    return test_done();
}
