/* SPDX-License-Identifier: Apache-2.0
 *
 * What the compiler and zstd's decoder expect of a C library. Nothing here allocates: the decoder works in a static
 * context, and an allocation that failed is an answer it knows how to give up on.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "raw.h"

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    void *start = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if (t <= f || t >= f + n)
        return memcpy(to, from, n);
    while (n--)
        t[n] = f[n];
    return to;
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

void *malloc(size_t n)
{
    (void)n;
    return NULL;
}

void *calloc(size_t n, size_t size)
{
    (void)n, (void)size;
    return NULL;
}

void free(void *p)
{
    (void)p;
}

int *__errno_location(void)
{
    static int error;

    return &error;
}

/* A smashed stack in the decoder: the pager's death is noticed by the launcher, which kills the target. */
_Noreturn void __stack_chk_fail(void)
{
    for (;;)
        raw1(SYS_exit_group, 125);
}
