/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c: finds a frozen process's own pages without faulting any in, reads them in large batches, leaves
 * out the ones of zeros, and packs the rest by 64 KiB window.
 */
#include "pages.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wire.h"

#define PAGE        ((uint64_t)WR_PAGE_BYTES)
#define WINDOW      ((uint64_t)WR_CHUNK_BYTES)
#define RUNS_MAX    1024 /* IOV_MAX: one process_vm_readv takes them all */
#define REGIONS_MAX 256
#define ENTRIES_MAX 512

/* linux/fs.h of Linux 6.7 (PAGE_IS_GUARD: 6.15), which Debian 12's headers lack. */
struct page_region {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

struct pm_scan_arg {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)
#define IS_FILE    (1ULL << 2)
#define IS_PRESENT (1ULL << 3)
#define IS_SWAPPED (1ULL << 4)
#define IS_PFNZERO (1ULL << 5)
#define IS_GUARD   (1ULL << 8)

/* /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_GUARD   (1ULL << 58)
#define ENTRY_FILE    (1ULL << 61)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_PRESENT (1ULL << 63)

struct run {
    uint64_t start;
    uint64_t end; /* exclusive */
    uint32_t flags;
};

/* The pages of one batch, before they are read. */
struct batch {
    struct run runs[RUNS_MAX];
    uint32_t count;
    uint64_t pages;
    uint64_t pages_max;
    uint64_t stopped; /* address up to which everything was looked at */
};

static int fail(struct tr_error *err, int code, const char *call, uint64_t object)
{
    err->code = code;
    err->object = object;
    strncpy(err->call, call, sizeof(err->call) - 1);
    err->call[sizeof(err->call) - 1] = '\0';
    return -1;
}

/* Takes what fits of [start, end); 1 if all of it did. */
static int batch_add(struct batch *batch, uint64_t start, uint64_t end, uint32_t flags)
{
    uint64_t room = (batch->pages_max - batch->pages) * PAGE;
    uint64_t part = end - start < room ? end : start + room;
    struct run *last = batch->count ? &batch->runs[batch->count - 1] : NULL;

    if (last && last->end == start && last->flags == flags) {
        last->end = part;
    } else if (batch->count < RUNS_MAX && part > start) {
        batch->runs[batch->count++] = (struct run){start, part, flags};
    } else {
        part = start;
    }
    batch->pages += (part - start) / PAGE;
    batch->stopped = part;
    return part == end;
}

static int scan_ioctl(struct tr_pages *pages, struct pm_scan_arg *arg)
{
    for (;;) {
        uint64_t guard = pages->use_scan == TR_SCAN_TRY ? IS_GUARD : 0;

        arg->return_mask = IS_PRESENT | IS_SWAPPED | guard;
        int count = ioctl(pages->pagemap_fd, SCAN_IOCTL, arg);
        if (count >= 0 || errno != EINVAL || !guard)
            return count;
        pages->use_scan = TR_SCAN_PLAIN;
    }
}

/* 1: looked at all of [start, end); 0: the batch is full; -1: err, or (ENOTTY) no such ioctl. */
static int find_by_scan(struct tr_pages *pages, struct batch *batch, uint64_t start, uint64_t end,
                        uint32_t flags, struct tr_error *err)
{
    struct page_region regions[REGIONS_MAX];

    while (start < end) {
        struct pm_scan_arg arg = {
            .size = sizeof(arg),
            .start = start,
            .end = end,
            .vec = (uint64_t)(uintptr_t)regions,
            .vec_len = REGIONS_MAX,
            .category_inverted = IS_FILE | IS_PFNZERO,
            .category_mask = IS_FILE | IS_PFNZERO,
            .category_anyof_mask = IS_PRESENT | IS_SWAPPED,
        };
        int count = scan_ioctl(pages, &arg);

        if (count < 0)
            return fail(err, errno, "PAGEMAP_SCAN", (uint64_t)pages->pid);
        for (int i = 0; i < count; i++) {
            /* pagemap_page_category() reports a guard marker as a swapped page as well. */
            if (regions[i].categories & IS_GUARD)
                continue;
            if (!batch_add(batch, regions[i].start, regions[i].end, flags))
                return 0;
        }
        if (arg.walk_end <= start)
            return fail(err, EIO, "PAGEMAP_SCAN", (uint64_t)pages->pid);
        start = arg.walk_end;
        batch->stopped = start;
    }
    return 1;
}

static int find_by_entries(struct tr_pages *pages, struct batch *batch, uint64_t start, uint64_t end,
                           uint32_t flags, struct tr_error *err)
{
    uint64_t entries[ENTRIES_MAX];

    while (start < end) {
        uint64_t wanted = (end - start) / PAGE < ENTRIES_MAX ? (end - start) / PAGE : ENTRIES_MAX;
        ssize_t got = pread(pages->pagemap_fd, entries, wanted * 8, (off_t)(start / PAGE * 8));

        if (got < 8)
            return fail(err, got < 0 ? errno : EIO, "read of /proc/PID/pagemap", (uint64_t)pages->pid);
        for (uint64_t i = 0; i < (uint64_t)got / 8; i++, start += PAGE) {
            if (!(entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) || (entries[i] & (ENTRY_FILE | ENTRY_GUARD)))
                continue;
            if (!batch_add(batch, start, start + PAGE, flags))
                return 0;
        }
        batch->stopped = start;
    }
    return 1;
}

static int find_in_range(struct tr_pages *pages, struct batch *batch, const struct tr_range *range,
                         struct tr_error *err)
{
    uint64_t start = range->start > pages->next ? range->start : pages->next;

    if (pages->use_scan != TR_SCAN_NONE) {
        int done = find_by_scan(pages, batch, start, range->end, range->flags, err);

        if (done >= 0 || err->code != ENOTTY)
            return done;
        pages->use_scan = TR_SCAN_NONE;
    }
    return find_by_entries(pages, batch, start, range->end, range->flags, err);
}

/* A full batch may end inside a window: its pages are left to the next batch. */
static void batch_trim(struct batch *batch)
{
    uint64_t limit = batch->stopped & ~(WINDOW - 1);

    while (batch->count && batch->runs[batch->count - 1].end > limit) {
        struct run *last = &batch->runs[batch->count - 1];
        uint64_t keep = last->start < limit ? limit : last->start;

        batch->pages -= (last->end - keep) / PAGE;
        last->end = keep;
        if (last->start < keep)
            break;
        batch->count--;
    }
    batch->stopped = limit;
}

static int batch_find(struct tr_pages *pages, struct batch *batch, struct tr_error *err)
{
    int done = 1;

    for (uint64_t i = 0; i < pages->ranges_count && done == 1; i++) {
        if (pages->ranges[i].end > pages->next)
            done = find_in_range(pages, batch, &pages->ranges[i], err);
    }
    if (done < 0)
        return -1;
    if (!done)
        batch_trim(batch);
    return 0;
}

/* PROT_NONE and write-only memory is refused to process_vm_readv, which reads without FOLL_FORCE; /proc/PID/mem
 * has it (check_vma_flags). */
static ssize_t read_by_mem(const struct tr_pages *pages, uint8_t *buffer, const struct run *run,
                           uint64_t skip, struct tr_error *err)
{
    uint64_t bytes = run->end - run->start - skip;
    ssize_t got = pread(pages->mem_fd, buffer, bytes, (off_t)(run->start + skip));

    if (got <= 0)
        return fail(err, got < 0 ? errno : EIO, "read of /proc/PID/mem", run->start + skip);
    return got;
}

static int batch_read(const struct tr_pages *pages, const struct batch *batch, uint8_t *buffer,
                      struct tr_error *err)
{
    struct iovec remote[RUNS_MAX];
    uint64_t done = 0, total = batch->pages * PAGE, skip = 0;
    uint32_t first = 0;

    while (done < total) {
        struct iovec local = {buffer + done, total - done};

        for (uint32_t i = first; i < batch->count; i++) {
            const struct run *run = &batch->runs[i];
            uint64_t start = run->start + (i == first ? skip : 0);

            remote[i - first] = (struct iovec){(void *)(uintptr_t)start, run->end - start};
        }
        ssize_t got = process_vm_readv(pages->pid, &local, 1, remote, batch->count - first, 0);

        if (got < 0 && (errno == ESRCH || errno == EPERM))
            return fail(err, errno, "process_vm_readv", batch->runs[first].start + skip);
        if (got <= 0)
            got = read_by_mem(pages, buffer + done, &batch->runs[first], skip, err);
        if (got < 0)
            return -1;
        done += (uint64_t)got;
        for (skip += (uint64_t)got; first < batch->count; first++) {
            uint64_t bytes = batch->runs[first].end - batch->runs[first].start;

            if (skip < bytes)
                break;
            skip -= bytes;
        }
    }
    return 0;
}

static int is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    for (uint32_t i = 0; i < PAGE / 8; i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
            words[i + 6] | words[i + 7])
            return 0;
    }
    return 1;
}

static int in_span(const struct tr_pages *pages, uint64_t *cursor, uint64_t page)
{
    while (*cursor < pages->eager_count && pages->eager[*cursor].end <= page)
        ++*cursor;
    return *cursor < pages->eager_count && pages->eager[*cursor].start < page + PAGE;
}

static void batch_pack(struct tr_pages *pages, const struct batch *batch, uint8_t *buffer,
                       struct tr_window *windows, uint64_t *windows_count)
{
    uint64_t in = 0, out = 0, cursor = 0, count = 0;

    for (uint32_t i = 0; i < batch->count; i++) {
        const struct run *run = &batch->runs[i];
        uint32_t file = run->flags & TR_RANGE_FILE;
        uint32_t written = run->flags & (TR_RANGE_FILE | TR_RANGE_WRITE);
        uint32_t flags = written ? WR_RECORD_EAGER | WR_RECORD_WRITE : 0;

        if (run->flags & TR_RANGE_EAGER)
            flags |= WR_RECORD_EAGER;
        for (uint64_t page = run->start; page < run->end; page += PAGE, in += PAGE) {
            uint32_t eager = in_span(pages, &cursor, page) ? WR_RECORD_EAGER : 0;
            uint64_t addr = page & ~(WINDOW - 1);

            /* A COWed page of zeros differs from the file; a never-lazy one has to be there. */
            if (!file && !eager && is_zero(buffer + in)) {
                pages->zero_pages++;
                continue;
            }
            if (!count || windows[count - 1].addr != addr)
                windows[count++] = (struct tr_window){addr, out, 0, 0};
            windows[count - 1].mask |= 1u << ((page - addr) / PAGE);
            windows[count - 1].flags |= flags | eager;
            if (in != out)
                memcpy(buffer + out, buffer + in, PAGE);
            out += PAGE;
        }
    }
    *windows_count = count;
}

int tr_pages_next(struct tr_pages *pages, uint8_t *buffer, uint64_t buffer_pages, struct tr_window *windows,
                  uint64_t *windows_count, struct tr_error *err)
{
    struct batch batch = {.pages_max = buffer_pages};

    *windows_count = 0;
    if (buffer_pages < TR_PAGES_MIN || buffer_pages > TR_PAGES_MAX)
        return fail(err, EINVAL, "tr_pages_next", buffer_pages);
    do {
        batch.count = 0;
        batch.pages = 0;
        if (batch_find(pages, &batch, err) || batch_read(pages, &batch, buffer, err))
            return -1;
        batch_pack(pages, &batch, buffer, windows, windows_count);
        if (batch.count)
            pages->next = batch.stopped;
    } while (batch.count && !*windows_count);
    return 0;
}
