/* SPDX-License-Identifier: Apache-2.0
 *
 * Syscalls that Python has no function for.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tracer.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

int tr_kcmp(int32_t pid1, int32_t pid2, int32_t kind, uint64_t idx1, uint64_t idx2)
{
    long result = syscall(SYS_kcmp, pid1, pid2, kind, idx1, idx2);

    return result < 0 ? -errno : (int)result;
}

int tr_pidfd_getfd(int32_t pidfd, int32_t fd)
{
    long result = syscall(SYS_pidfd_getfd, pidfd, fd, 0);

    return result < 0 ? -errno : (int)result;
}
