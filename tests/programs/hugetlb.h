/* SPDX-License-Identifier: Apache-2.0
 *
 * Huge pages of hugetlbfs, of 2 MiB.
 */
#ifndef HUGETLB_H
#define HUGETLB_H
#include "memory.h"
#include <linux/memfd.h>

#define HUGE_PAGE    ((size_t)2 << 20)
#define HUGE_PAGES   (HUGE_PAGE / PAGE) /* ordinary pages in a huge one */
#define HUGE_2M_FLAG (21 << 26)
#define HUGE_1G_FLAG (30 << 26)

static inline char *hugetlb_map(size_t huge_pages, int flags)
{
    int all = MAP_ANONYMOUS | MAP_HUGETLB | HUGE_2M_FLAG | flags;
    char *addr = mmap(NULL, huge_pages * HUGE_PAGE, PROT_READ | PROT_WRITE, all, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

static inline char *hugetlb_map_file(int fd, size_t huge_pages, int flags)
{
    char *addr = mmap(NULL, huge_pages * HUGE_PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

/* The size of its pages in KiB, as smaps tells it. */
static inline long hugetlb_page_kib(const void *addr)
{
    return strtol(memory_smaps(addr, "KernelPageSize"), NULL, 10);
}

/* How many bytes are not zero. */
static inline size_t hugetlb_wrong_zeros(const char *addr, size_t bytes)
{
    size_t wrong = 0;
    for (size_t i = 0; i < bytes; i += 8)
        wrong += *(const volatile uint64_t *)(addr + i) != 0;
    return wrong;
}

#endif
