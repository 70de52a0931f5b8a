/* SPDX-License-Identifier: Apache-2.0
 *
 * In place of loader/raw.h (gcc -include; the guard is the same): system calls go to the test, which is the kernel.
 */
#ifndef RESTORER_RAW_H
#define RESTORER_RAW_H
#include <stdint.h>

#define IS_ERROR(result) ((unsigned long)(result) >= (unsigned long)-4095L)

long raw6(long nr, long a, long b, long c, long d, long e, long f);

#define raw4(nr, a, b, c, d) raw6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define raw3(nr, a, b, c)    raw6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define raw2(nr, a, b)       raw6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define raw1(nr, a)          raw6(nr, (long)(a), 0, 0, 0, 0, 0)

#endif
