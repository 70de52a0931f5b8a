/* SPDX-License-Identifier: Apache-2.0 */
#include "userfaults.h"

#include <unistd.h>

bool userfaults_hold(struct userfaults *userfaults, uint64_t number, int fd)
{
    if (fd < 0)
        return false;
    if (userfaults->count == USERFAULTS_MAX) {
        close(fd);
        return false;
    }
    userfaults->held[userfaults->count++] = (struct userfault){.number = number, .fd = fd};
    return true;
}

int userfaults_fd(const struct userfaults *userfaults, uint64_t number)
{
    for (size_t i = 0; i < userfaults->count; i++)
        if (userfaults->held[i].number == number)
            return userfaults->held[i].fd;
    return -1;
}

void userfaults_release(struct userfaults *userfaults, uint64_t number)
{
    for (size_t i = userfaults->count; i-- > 0;) {
        if (userfaults->held[i].number != number)
            continue;
        close(userfaults->held[i].fd);
        userfaults->held[i] = userfaults->held[--userfaults->count];
    }
}

void userfaults_release_all(struct userfaults *userfaults)
{
    while (userfaults->count > 0)
        close(userfaults->held[--userfaults->count].fd);
}
