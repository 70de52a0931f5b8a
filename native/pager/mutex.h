/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's locks: a futex word, 0 free, 1 held, 2 held and waited for. How to wait is the caller's business:
 *
 *     if (!mutex_try(word))
 *         while (mutex_contend(word))
 *             ... wait while *word == 2 ...
 */
#ifndef RESTORER_MUTEX_H
#define RESTORER_MUTEX_H
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "../loader/raw.h"

static inline int mutex_try(uint32_t *word)
{
    uint32_t free = 0;

    return __atomic_compare_exchange_n(word, &free, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* 0: it is ours, and whoever gives it back wakes others. */
static inline int mutex_contend(uint32_t *word)
{
    return __atomic_exchange_n(word, 2, __ATOMIC_SEQ_CST) != 0;
}

static inline void mutex_give(uint32_t *word)
{
    if (__atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST) == 2)
        raw3(SYS_futex, word, FUTEX_WAKE, 1);
}

#endif
