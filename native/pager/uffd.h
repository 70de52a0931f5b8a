/* SPDX-License-Identifier: Apache-2.0
 *
 * <linux/userfaultfd.h> as far as the pager needs it and Debian 12's headers (6.1) lack it. Values from the kernel's
 * include/uapi/linux/userfaultfd.h.
 */
#ifndef RESTORER_UFFD_H
#define RESTORER_UFFD_H
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>

#ifndef UFFDIO_MOVE
struct uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move;
};
#define UFFDIO_MOVE                      _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFDIO_MOVE_MODE_DONTWAKE        ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#endif

#ifndef UFFDIO_POISON
struct uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

#endif
