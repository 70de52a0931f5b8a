/* SPDX-License-Identifier: Apache-2.0
 *
 * seccomp.h: filters that give one system call an errno, by which they can be told.
 */
#ifndef SECCOMP_H
#define SECCOMP_H
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include "status.h"

/* Installs "system call `nr` does `action`, all others are allowed"; the result of seccomp(2). */
static inline long filter_install(unsigned flags, int nr, uint32_t action)
{
    struct sock_filter insns[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof insns / sizeof *insns, insns};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* What `nr`, with all arguments 0, gives: 0 or an errno. */
static inline int errno_of(int nr)
{
    errno = 0;
    return syscall(nr, 0, 0, 0, 0, 0, 0) < 0 ? errno : 0;
}

static inline int seccomp_count(const char *key)
{
    char line[256];
    status_line(key, line, sizeof line);
    return atoi(line + strlen(key) + 1);
}

#define NO(code) (SECCOMP_RET_ERRNO | (code))

#endif
