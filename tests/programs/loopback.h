/* SPDX-License-Identifier: Apache-2.0
 *
 * A socket bound to a port of its own on the loopback interface.
 */
#ifndef LOOPBACK_H
#define LOOPBACK_H
#include "test.h"
#include <arpa/inet.h>
#include <sys/socket.h>

static struct sockaddr_in address;

static int open_socket(int type)
{
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, type, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    return fd;
}

#endif
