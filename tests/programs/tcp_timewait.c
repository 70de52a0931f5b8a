/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_timewait: servers without SO_REUSEADDR, on one address and on all of both kinds, whose connections are in TIME_WAIT. */
#include "test.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { LOOPBACK, ANY, ANY6, DUAL, SERVERS };

struct name {
    struct sockaddr_storage of;
    socklen_t length;
};

static struct name name_of(int fd)
{
    struct name name = {.length = sizeof name.of};
    MUST(getsockname(fd, (struct sockaddr *)&name.of, &name.length) == 0);
    return name;
}

static int get(int fd, int level, int option)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, level, option, &value, &length) == 0);
    return value;
}

static int listener(int kind)
{
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    int family = kind == LOOPBACK || kind == ANY ? AF_INET : AF_INET6, only = kind == ANY6;
    int fd = socket(family, SOCK_STREAM, 0);
    four.sin_addr.s_addr = htonl(kind == LOOPBACK ? INADDR_LOOPBACK : INADDR_ANY);
    MUST(fd >= 0);
    if (family == AF_INET6)
        MUST(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) == 0);
    MUST((family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof four)
                            : bind(fd, (struct sockaddr *)&six, sizeof six)) == 0);
    MUST(listen(fd, 5) == 0);
    return fd;
}

/* A connection that the server ends first; what it has for it. */
static int serve(int server)
{
    char byte = 0;
    struct name name = name_of(server);
    int client = socket(name.of.ss_family, SOCK_STREAM, 0);
    int made = connect(client, (struct sockaddr *)&name.of, name.length),
        accepted = accept(server, NULL, NULL);
    int good = made == 0 && accepted >= 0 && write(accepted, "!", 1) == 1 && close(accepted) == 0;
    good = good && read(client, &byte, 1) == 1 && byte == '!' && read(client, &byte, 1) == 0;
    return close(client) == 0 && good;
}

/* Nobody else may have the port, whatever he says, as long as this one listens. */
static int is_taken(const struct name *name, int option)
{
    int on = 1, fd = socket(name->of.ss_family, SOCK_STREAM, 0);
    MUST(fd >= 0 && (!option || setsockopt(fd, SOL_SOCKET, option, &on, sizeof on) == 0));
    int failed = bind(fd, (const struct sockaddr *)&name->of, name->length) != 0 || listen(fd, 1) != 0;
    return close(fd) == 0 && failed && errno == EADDRINUSE;
}

/* The name of a second server on the port of the first: of the one on all IPv4 addresses, on all IPv6 ones. */
static int beside(int server)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct name name = name_of(server);
    int only = 1, fd = socket(AF_INET6, SOCK_STREAM, 0);
    six.sin6_port = ((struct sockaddr_in *)&name.of)->sin_port;
    MUST(fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) == 0);
    MUST(bind(fd, (struct sockaddr *)&six, sizeof six) == 0 && listen(fd, 5) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    int servers[SERVERS + 1];
    struct name names[SERVERS + 1];
    test_init(argc, argv);
    for (int i = 0; i < SERVERS; i++)
        servers[i] = listener(i);
    servers[SERVERS] = beside(servers[ANY]);
    for (int i = 0; i <= SERVERS; i++) {
        MUST(serve(servers[i]));
        names[i] = name_of(servers[i]);
    }
    FILE *port = fopen(test_path("port"), "w");
    MUST(port != NULL && fprintf(port, "%d", ntohs(((struct sockaddr_in *)&names[ANY].of)->sin_port)) > 0);
    MUST(fclose(port) == 0);
    test_wait();
    for (int i = 0; i <= SERVERS; i++) {
        struct name now = name_of(servers[i]);
        EXPECT(now.length == names[i].length && memcmp(&now.of, &names[i].of, now.length) == 0);
        EXPECT_EQ(get(servers[i], SOL_SOCKET, SO_REUSEADDR), 0);
        EXPECT_EQ(get(servers[i], SOL_SOCKET, SO_REUSEPORT), 0);
        EXPECT_EQ(get(servers[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
        EXPECT(is_taken(&names[i], 0) && is_taken(&names[i], SO_REUSEADDR) &&
               is_taken(&names[i], SO_REUSEPORT));
        EXPECT(serve(servers[i]));
    }
    return test_done();
}
