/* SPDX-License-Identifier: Apache-2.0 */
#include "channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host.h"
#include "say.h"

void channel_open(int *ours, int *childs, int fd_base)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
        die("cannot make a socket pair: %s", strerror(errno));
    *ours = sockets[0];
    *childs = host_high_fd(sockets[1], fd_base, "the channel");
    close(sockets[1]);
}

static void take_fd(struct msghdr *header, int *fd)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
            continue;
        if (*fd >= 0)
            close(*fd);
        memcpy(fd, CMSG_DATA(c), sizeof(int));
    }
}

enum channel_state channel_peek(int channel, struct wr_message *message, int *fd)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct iovec io = {message, sizeof(*message)};
    struct msghdr header = {
        .msg_iov = &io,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    *fd = -1;
    ssize_t n = recvmsg(channel, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? CHANNEL_EMPTY : CHANNEL_CLOSED;
    take_fd(&header, fd);
    if (n == 0)
        return CHANNEL_CLOSED;
    if ((size_t)n < sizeof(*message))
        memset((char *)message + n, 0, sizeof(*message) - (size_t)n);
    return CHANNEL_MESSAGE;
}

void channel_drop(int channel)
{
    struct wr_message message;
    recv(channel, &message, sizeof(message), MSG_DONTWAIT);
}
