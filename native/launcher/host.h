/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine offers: the CPU's vector state, userfaultfd, the vDSO.
 */
#ifndef RESTORER_HOST_H
#define RESTORER_HOST_H
#include "image.h"
#include "region.h"

/* Ends the process when the CPU lacks register state that the image holds. */
void host_check_cpu(const struct image *image);

/* Fills the slots about userfaultfd. Its device, where there is one, becomes an fd at or above `fd_base`. */
void host_offer_userfaultfd(const struct region *region, int fd_base);

/* Fills the slots about vvar and vDSO. */
void host_offer_vdso(const struct region *region);

/* A duplicate of `fd` at or above `fd_base`, close-on-exec. */
int host_high_fd(int fd, int fd_base, const char *what);

#endif
