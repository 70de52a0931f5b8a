/* SPDX-License-Identifier: Apache-2.0 */
/* unix_sockets: listening by path (relative, too) and by abstract name, bound and connected datagrams. */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "test.h"

static socklen_t fill(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
    return sizeof *address;
}

static socklen_t fill_abstract(struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "restorer test %d", getpid());
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int bound(int type, const struct sockaddr_un *address, socklen_t length)
{
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0 && bind(fd, (const struct sockaddr *)address, length) == 0);
    return fd;
}

static void expect_name(int fd, const struct sockaddr_un *address)
{
    struct sockaddr_un now = {0};
    socklen_t length = sizeof now;
    EXPECT(getsockname(fd, (struct sockaddr *)&now, &length) == 0);
    EXPECT(memcmp(now.sun_path, address->sun_path, sizeof now.sun_path) == 0);
}

static void expect_service(int listener, int type, const struct sockaddr_un *address, socklen_t length)
{
    char byte = 0;
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    int client = socket(AF_UNIX, type, 0);
    EXPECT(connect(client, (const struct sockaddr *)address, length) == 0 && write(client, "?", 1) == 1);
    EXPECT(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid());
    int server = accept(listener, NULL, NULL);
    EXPECT(server >= 0 && read(server, &byte, 1) == 1 && byte == '?');
    close(server);
    close(client);
}

int main(int argc, char **argv)
{
    struct sockaddr_un relative, absolute, abstract, datagram;
    struct stat before, after;
    char text[16];
    test_init(argc, argv);
    MUST(chdir(test_workdir) == 0);
    socklen_t length = fill(&relative, "relative.sock"), abstract_length = fill_abstract(&abstract);
    fill(&absolute, test_path("s"));
    fill(&datagram, test_path("d"));
    int stream = bound(SOCK_STREAM, &relative, length), packet = bound(SOCK_SEQPACKET, &absolute, length);
    int hidden = bound(SOCK_STREAM, &abstract, abstract_length), log = bound(SOCK_DGRAM, &datagram, length);
    MUST(listen(stream, 3) == 0 && listen(packet, 3) == 0 && listen(hidden, 3) == 0);
    MUST(chmod("relative.sock", 0624) == 0 && chown("relative.sock", 12, 34) == 0);
    MUST(stat("relative.sock", &before) == 0);
    int sender = socket(AF_UNIX, SOCK_DGRAM, 0), fresh = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(connect(sender, (struct sockaddr *)&datagram, length) == 0 && fresh >= 0);
    test_wait();
    expect_name(stream, &relative);
    expect_name(packet, &absolute);
    expect_name(hidden, &abstract);
    expect_name(log, &datagram);
    EXPECT(stat("relative.sock", &after) == 0 && after.st_mode == before.st_mode);
    EXPECT(after.st_uid == 12 && after.st_gid == 34);
    expect_service(stream, SOCK_STREAM, &relative, length);
    expect_service(packet, SOCK_SEQPACKET, &absolute, length);
    expect_service(hidden, SOCK_STREAM, &abstract, abstract_length);
    EXPECT(write(sender, "line", 4) == 4 && read(log, text, sizeof text) == 4);
    return test_done();
}
