/* SPDX-License-Identifier: Apache-2.0 */
/* unix_flight: what is in flight in unix sockets: files open nowhere else, sockets in their own queues, credentials,
 * where in a stream they come. */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "test.h"

struct packet {
    char text[64];
    ssize_t length;
    int fds[8];
    int count;
    struct ucred credentials;
};

static void hand_over(int socket, const char *text, const int *fds, int count)
{
    char control[CMSG_SPACE(sizeof(int) * 8)] = {0};
    struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(sizeof(int) * (size_t)count), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
    MUST(sendmsg(socket, &message, 0) == (ssize_t)strlen(text));
}

static struct packet receive(int socket, size_t most)
{
    struct packet packet = {0};
    union {
        char bytes[512];
        struct cmsghdr align;
    } control;
    struct iovec iov = {packet.text, most};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    packet.length = recvmsg(socket, &message, MSG_DONTWAIT);
    for (struct cmsghdr *at = packet.length < 0 ? NULL : CMSG_FIRSTHDR(&message); at;
         at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_type == SCM_RIGHTS) {
            packet.count = (int)((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(packet.fds, CMSG_DATA(at), at->cmsg_len - CMSG_LEN(0));
        } else if (at->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&packet.credentials, CMSG_DATA(at), sizeof packet.credentials);
        }
    }
    return packet;
}

static int is(const struct packet *packet, const char *text, int count)
{
    return packet->length == (ssize_t)strlen(text) && memcmp(packet->text, text, strlen(text)) == 0 &&
           packet->count == count;
}

/* An unlinked file with an offset and a lock, the write end of a pipe, an eventfd: none of them open otherwise. */
static void send_orphans(int socket, int *reader)
{
    int ends[2], file = open(test_path("gone"), O_RDWR | O_CREAT, 0600), event = eventfd(7, EFD_NONBLOCK);
    MUST(pipe(ends) == 0 && file >= 0 && event >= 0 && write(file, "content", 7) == 7);
    MUST(lseek(file, 3, SEEK_SET) == 3 && unlink(test_path("gone")) == 0 && flock(file, LOCK_EX) == 0);
    MUST(write(ends[1], "in the pipe", 11) == 11);
    hand_over(socket, "orphans", (int[]){file, ends[1], event}, 3);
    close(file);
    close(ends[1]);
    close(event);
    *reader = ends[0];
}

static void expect_orphans(int socket, int reader)
{
    struct packet packet = receive(socket, 64);
    char text[16] = {0};
    uint64_t count = 0;
    EXPECT(is(&packet, "orphans", 3));
    EXPECT(read(packet.fds[0], text, 16) == 4 && strcmp(text, "tent") == 0);
    EXPECT(write(packet.fds[1], "!", 1) == 1 && read(reader, text, 16) == 12 &&
           memcmp(text, "in the pipe!", 12) == 0);
    EXPECT(close(packet.fds[1]) == 0 && read(reader, text, 16) == 0);
    EXPECT(read(packet.fds[2], &count, 8) == 8 && count == 7);
}

/* A pair that is in the queue of its own end, with one more in that. */
static void send_nested(int socket)
{
    int inner[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0);
    hand_over(inner[0], "itself", (int[]){inner[1], inner[0]}, 2);
    MUST(send(inner[1], "plain", 5, 0) == 5);
    hand_over(socket, "nested", inner, 2);
    close(inner[0]);
    close(inner[1]);
}

static void expect_nested(int socket)
{
    struct packet outer = receive(socket, 64);
    EXPECT(is(&outer, "nested", 2));
    struct packet inner = receive(outer.fds[1], 64), plain = receive(outer.fds[0], 64);
    EXPECT(is(&inner, "itself", 2) && is(&plain, "plain", 0));
    EXPECT(send(inner.fds[0], "round", 5, 0) == 5);
    plain = receive(outer.fds[0], 64);
    EXPECT(is(&plain, "round", 0));
}

static void send_stream(int socket, int file)
{
    MUST(send(socket, "before ", 7, 0) == 7);
    hand_over(socket, "with one", &file, 1);
    hand_over(socket, "with two", (int[]){file, file}, 2);
    MUST(send(socket, "after", 5, 0) == 5);
}

static void expect_stream(int socket, int file)
{
    struct packet part = receive(socket, 7);
    EXPECT(is(&part, "before ", 0));
    part = receive(socket, 2);
    EXPECT(is(&part, "wi", 1));
    EXPECT(lseek(part.fds[0], 11, SEEK_SET) == 11 && lseek(file, 0, SEEK_CUR) == 11);
    part = receive(socket, 64);
    EXPECT(is(&part, "th onewith two", 2));
    part = receive(socket, 64);
    EXPECT(is(&part, "after", 0));
}

static int name_socket(struct sockaddr_un *name, const char *path)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(name->sun_path, sizeof name->sun_path, "%s", path);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)name, sizeof *name) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    int stream[2], packets[2], watched[2], reader, on = 1;
    struct sockaddr_un log, sender, from = {0};
    test_init(argc, argv);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, watched) == 0);
    int file = open(test_path("file"), O_RDWR | O_CREAT, 0600);
    MUST(file >= 0 && lockf(file, F_LOCK, 0) == 0);
    send_orphans(packets[0], &reader);
    send_nested(packets[0]);
    send_stream(stream[0], file);
    MUST(shutdown(stream[0], SHUT_WR) == 0);
    MUST(send(watched[0], "unknown", 7, 0) == 7);
    MUST(setsockopt(watched[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    MUST(send(watched[0], "known", 5, 0) == 5);
    int daemon = name_socket(&log, test_path("log")), named = name_socket(&sender, test_path("sender"));
    int nameless = socket(AF_UNIX, SOCK_DGRAM, 0);
    MUST(sendto(named, "from a name", 11, 0, (struct sockaddr *)&log, sizeof log) == 11);
    MUST(sendto(nameless, "from nobody", 11, 0, (struct sockaddr *)&log, sizeof log) == 11);
    MUST(sendto(nameless, "", 0, 0, (struct sockaddr *)&log, sizeof log) == 0);
    MUST(connect(nameless, (struct sockaddr *)&log, sizeof log) == 0);
    test_wait();
    expect_orphans(packets[1], reader);
    expect_nested(packets[1]);
    expect_stream(stream[1], file);
    struct packet part = receive(stream[1], 64);
    EXPECT_EQ(part.length, 0);
    part = receive(watched[1], 64);
    EXPECT(is(&part, "unknown", 0));
    EXPECT_EQ(part.credentials.pid, 0);
    part = receive(watched[1], 64);
    EXPECT(is(&part, "known", 0));
    EXPECT_EQ(part.credentials.pid, getpid());
    EXPECT_EQ(part.credentials.uid, getuid());
    char text[64];
    socklen_t length = sizeof from;
    EXPECT(recvfrom(daemon, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&from, &length) == 11);
    EXPECT(strcmp(from.sun_path, sender.sun_path) == 0 && memcmp(text, "from a name", 11) == 0);
    length = sizeof from;
    EXPECT(recvfrom(daemon, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&from, &length) == 11);
    EXPECT(length <= sizeof(sa_family_t) && memcmp(text, "from nobody", 11) == 0);
    EXPECT_EQ(recv(daemon, text, sizeof text, MSG_DONTWAIT), 0);
    EXPECT(send(nameless, "again", 5, 0) == 5 && recv(daemon, text, sizeof text, MSG_DONTWAIT) == 5);
    return test_done();
}
