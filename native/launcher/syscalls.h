/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RESTORER_SYSCALLS_H
#define RESTORER_SYSCALLS_H
#include <stdint.h>

/* The name of an x86-64 system call, or NULL. */
const char *syscall_name(uint64_t nr);

#endif
