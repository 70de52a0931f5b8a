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

/* Never blocks. `*fd` is the fd that came along, or -1. */
enum channel_state channel_receive(int channel, struct wr_message *message, int *fd);

#endif
