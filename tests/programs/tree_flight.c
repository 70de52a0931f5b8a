/* SPDX-License-Identifier: Apache-2.0 */
/* tree_flight: open files that a child has sent and its parent has not received, who sent them, and that they are one
 * with those that the child still has. */
#include "tree.h"
#include <sys/mman.h>

static int link_to_parent[2], file, memory, ends[2];

static int send_all(void)
{
    union {
        char bytes[CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {(void *)(uintptr_t) "three", 5};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[3] = {file, memory, ends[1]};
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), fds, sizeof fds);
    return sendmsg(link_to_parent[1], &message, 0) == 5;
}

static int serve(char asked, void *argument)
{
    (void)argument;
    if (asked == 's') {
        file = open(test_path("gone"), O_RDWR | O_CREAT, 0600);
        memory = memfd_create("flight", 0);
        CHECK(file >= 0 && memory >= 0 && pipe(ends) == 0 && unlink(test_path("gone")) == 0);
        CHECK(write(file, "unlinked", 8) == 8 && write(memory, "memfd", 5) == 5 &&
              lseek(file, 2, SEEK_SET) == 2);
        CHECK(send_all() && close(ends[1]) == 0);
        return 0;
    }
    /* The parent has moved the offsets, and written into the pipe. */
    char text[8];
    CHECK(lseek(file, 0, SEEK_CUR) == 5 && lseek(memory, 0, SEEK_CUR) == 1);
    CHECK(read(ends[0], text, sizeof text) == 4 && memcmp(text, "pipe", 4) == 0);
    CHECK(read(ends[0], text, sizeof text) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    union {
        char bytes[256];
        struct cmsghdr align;
    } control = {{0}};
    char text[16] = {0};
    struct iovec iov = {text, sizeof text};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    struct ucred sender = {0};
    int on = 1, fds[3] = {-1, -1, -1};
    test_init(argc, argv);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, link_to_parent) == 0);
    MUST(setsockopt(link_to_parent[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    struct child child = tree_fork(serve, NULL);
    MUST(close(link_to_parent[1]) == 0 && tree_ask(&child, 's') == 0);
    test_wait();
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    EXPECT(recvmsg(link_to_parent[0], &message, MSG_DONTWAIT) == 5 && memcmp(text, "three", 5) == 0);
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_type == SCM_CREDENTIALS)
            memcpy(&sender, CMSG_DATA(at), sizeof sender);
        if (at->cmsg_type == SCM_RIGHTS && at->cmsg_len == CMSG_LEN(sizeof fds))
            memcpy(fds, CMSG_DATA(at), sizeof fds);
    }
    EXPECT_EQ(sender.pid, child.pid);
    EXPECT(read(fds[0], text, 3) == 3 && memcmp(text, "lin", 3) == 0);
    EXPECT(pread(fds[1], text, 8, 0) == 5 && memcmp(text, "memfd", 5) == 0 &&
           lseek(fds[1], 1, SEEK_SET) == 1);
    EXPECT(write(fds[2], "pipe", 4) == 4 && close(fds[2]) == 0);
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
