/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.h: which pages of a frozen process hold something of their own, and their bytes.
 * Read by cffi: no preprocessor in the body. Needs error.h.
 */
#ifndef RESTORER_TRACER_PAGES_H
#define RESTORER_TRACER_PAGES_H
#include <stdint.h>
#include "error.h"

enum tr_pages_limits {
    TR_PAGES_MIN = 64,      /* smallest buffer of tr_pages_next, in pages */
    TR_PAGES_MAX = 1048576, /* largest */
};

enum tr_range_flags {
    TR_RANGE_FILE = 1,  /* private file mapping: COWed pages only, and those of zeros too */
    TR_RANGE_EAGER = 2, /* every page of it is never-lazy */
    TR_RANGE_WRITE = 4, /* private memory that userfaultfd cannot cover: the pager writes it before resume */
};

/* One VMA (or several alike). Sorted by start, disjoint, page-aligned. */
struct tr_range {
    uint64_t start;
    uint64_t end;   /* exclusive */
    uint32_t flags; /* enum tr_range_flags */
    uint32_t pad;
};

/* Bytes that must be in place before resume. Sorted by start, disjoint, any alignment. */
struct tr_span {
    uint64_t start;
    uint64_t end; /* exclusive */
};

/* One aligned window of 64 KiB with pages to store: packed in order at buffer + offset. */
struct tr_window {
    uint64_t addr;
    uint64_t offset; /* in bytes */
    uint32_t mask;   /* bit i: page i of the window is here */
    uint32_t flags;  /* enum wr_record_flags */
};

/* A walk over a frozen process. The fds are the caller's; tr_pages_next moves `next` on. */
struct tr_pages {
    int32_t pid;
    int32_t pagemap_fd; /* /proc/PID/pagemap */
    int32_t mem_fd;     /* /proc/PID/mem */
    uint32_t use_scan;  /* enum tr_scan_use: how pages are found, set to TR_SCAN_TRY at first */
    const struct tr_range *ranges;
    uint64_t ranges_count;
    const struct tr_span *eager;
    uint64_t eager_count;
    uint64_t next;       /* where to go on, 0 at first */
    uint64_t zero_pages; /* found to be zeros and left out, so far */
};

enum tr_scan_use {
    TR_SCAN_TRY = 0,   /* PAGEMAP_SCAN with the newest categories, until the kernel refuses them */
    TR_SCAN_PLAIN = 1, /* PAGEMAP_SCAN without PAGE_IS_GUARD (before Linux 6.15) */
    TR_SCAN_NONE = 2,  /* /proc/PID/pagemap is read (before Linux 6.7) */
};

/* Brings the next pages into `buffer` (buffer_pages pages, TR_PAGES_MIN to TR_PAGES_MAX) and describes them in
 * `windows` (room for buffer_pages). windows_count 0: nothing is left. The target's own page tables do not
 * change, but for swapped pages. A window is never split between two calls.
 * Guard pages (MADV_GUARD_INSTALL) hold nothing. 0, or -1 with err filled: object is the address. */
int tr_pages_next(struct tr_pages *pages, uint8_t *buffer, uint64_t buffer_pages, struct tr_window *windows,
                  uint64_t *windows_count, struct tr_error *err);

#endif
