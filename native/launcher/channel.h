/* SPDX-License-Identifier: Apache-2.0
 *
 * The launcher's end of the SOCK_SEQPACKET channel to loader and pager.
 */
#ifndef RESTORER_CHANNEL_H
#define RESTORER_CHANNEL_H
#include "wire.h"

enum channel_state {
    CHANNEL_MESSAGE = 1,
    CHANNEL_EMPTY = 2,
    CHANNEL_CLOSED = 3,
};

/* The child's end gets an fd at or above `fd_base`. */
void channel_open(int *ours, int *childs, int fd_base);

/* Never blocks. `*fd` is the fd that came along, or -1. The message stays in the queue, and with it another holder of that
 * fd, until channel_drop: should we be killed before the guard has been given it, the guard has the queue. */
enum channel_state channel_peek(int channel, struct wr_message *message, int *fd);

/* The message that was peeked at. */
void channel_drop(int channel);

#endif
