/* SPDX-License-Identifier: Apache-2.0
 *
 * Raw x86-64 system calls for code without libc: the result is what the kernel returns, -errno on error.
 */
#ifndef RESTORER_RAW_H
#define RESTORER_RAW_H
#include <stdint.h>

#define IS_ERROR(result) ((unsigned long)(result) >= (unsigned long)-4095L)

static inline long raw6(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define raw4(nr, a, b, c, d) raw6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define raw3(nr, a, b, c)    raw6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define raw2(nr, a, b)       raw6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define raw1(nr, a)          raw6(nr, (long)(a), 0, 0, 0, 0, 0)

#endif
