/* SPDX-License-Identifier: Apache-2.0
 *
 * Duplicates of the userfaultfds that the pager serves: the restored process's own, number 0, and those of children it
 * forked while memory was missing. As long as one is held no missing page of that address space reads as zeroes, whatever
 * becomes of the pager.
 */
#ifndef RESTORER_USERFAULTS_H
#define RESTORER_USERFAULTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 64 spaces each of private and of shared memory (native/pager/pager.h, SPACES_MAX). */
enum { USERFAULTS_MAX = 128 };

struct userfault {
    uint64_t number;
    int fd;
};

struct userfaults {
    size_t count;
    struct userfault held[USERFAULTS_MAX];
};

/* Takes `fd` over; false when there is no room (it is closed then). */
bool userfaults_hold(struct userfaults *userfaults, uint64_t number, int fd);

/* -1 when it is not held. */
int userfaults_fd(const struct userfaults *userfaults, uint64_t number);

void userfaults_release(struct userfaults *userfaults, uint64_t number);

void userfaults_release_all(struct userfaults *userfaults);

#endif
