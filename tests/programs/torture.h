/* SPDX-License-Identifier: Apache-2.0
 *
 * torture.h: areas of memory with a model of what each of their pages holds now. A page's content follows from its
 * tag alone; tag 0 is zeroes. Every area belongs to one thread (or its forked copy), so that the model needs no lock.
 */
#ifndef TORTURE_H
#define TORTURE_H
#include "memory.h"
#include <stdatomic.h>

enum { WORDS = 512, AREA_PAGES = 320, AREAS = 4, WORKERS = 8, ALTSTACK_PAGES = 16 };

enum policy { WIPED = 1, KEPT = 2 }; /* MADV_WIPEONFORK, MADV_DONTFORK */

struct page {
    uint64_t tag;
    uint16_t patched; /* one word more than the index of the word that is inverted */
    uint8_t prot;
    uint8_t loose;  /* after MADV_FREE: any word may be zero */
    uint8_t policy; /* enum policy */
    uint8_t gone;   /* kept from this child */
};

struct area {
    char *addr;
    size_t pages;
    int whole; /* one VMA, mappings of the kernel's merging aside: only such a one can be moved at once */
    struct page page[AREA_PAGES];
};

struct worker {
    unsigned index;
    uint64_t random;
    uint64_t next_tag;
    int pipe[2];
    int file;
    char *altstack;
    struct area areas[AREAS];
};

/* Shared with forked children, and read by who kills us. `wrong` counts wrong pages, `taken` whatever went wrong. */
struct report {
    atomic_ulong loads;
    atomic_uint taken, wrong;
    char first[400];
};

static struct report *report;

__attribute__((format(printf, 1, 2))) static inline void report_wrong(const char *format, ...)
{
    va_list arguments;
    if (atomic_fetch_add(&report->taken, 1) != 0)
        return;
    va_start(arguments, format);
    vsnprintf(report->first, sizeof report->first, format, arguments);
    va_end(arguments);
}

#define NEED(condition)                                                                                      \
    ((condition) ? (void)0                                                                                   \
                 : report_wrong("%s line %d: %s: %s", __func__, __LINE__, #condition, strerror(errno)))

static inline uint64_t draw(struct worker *w, uint64_t below)
{
    w->random += 0x9e3779b97f4a7c15ULL;
    return memory_mix(w->random) % below;
}

static inline uint64_t fresh_tag(struct worker *w)
{
    return ++w->next_tag * WORDS;
}

static inline uint64_t page_word(const struct page *page, size_t word)
{
    uint64_t plain = page->tag ? memory_mix(page->tag + word) : 0;
    return page->patched == word + 1 ? ~plain : plain;
}

/* A new content, of the old memory. */
static inline void page_renew(struct page *page, uint64_t tag)
{
    *page = (struct page){.tag = tag, .prot = page->prot, .policy = page->policy, .gone = page->gone};
}

static inline char *page_at(const struct area *area, size_t i)
{
    return area->addr + i * PAGE;
}

static inline void page_fill(volatile uint64_t *words, const struct page *page)
{
    for (size_t i = 0; i < WORDS; i++)
        words[i] = page_word(page, i);
}

static inline void page_copy(const char *addr, uint64_t *copy)
{
    const volatile uint64_t *words = (const uint64_t *)addr;
    for (size_t i = 0; i < WORDS; i++)
        copy[i] = words[i];
}

/* As a debugger reads. Linux fails here while the page is missing, for __access_remote_vm (mm/memory.c) cannot wait
 * for a userfaultfd since 6.5; what it does give must be right. */
static inline int page_peek(const char *addr, uint64_t *copy)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    int read_all = pread(fd, copy, PAGE, (off_t)(uintptr_t)addr) == (ssize_t)PAGE;
    close(fd);
    return read_all;
}

static inline int page_holds(const struct page *page, const uint64_t *copy, size_t *word)
{
    for (*word = 0; *word < WORDS; ++*word) {
        uint64_t expected = page_word(page, *word);
        if (copy[*word] != expected && !(page->loose && copy[*word] == 0))
            return 0;
    }
    return 1;
}

static inline void page_judge(const struct worker *w, const char *addr, const struct page *page,
                              const uint64_t *copy, const char *when)
{
    size_t word;
    atomic_fetch_add_explicit(&report->loads, 1, memory_order_relaxed);
    if (page_holds(page, copy, &word))
        return;
    atomic_fetch_add(&report->wrong, 1);
    report_wrong("%s: PID %d, thread %u, page %p, word %zu is %#llx, not %#llx (tag %#llx, prot %d)", when,
                 getpid(), w->index, (const void *)addr, word, (unsigned long long)copy[word],
                 (unsigned long long)page_word(page, word), (unsigned long long)page->tag, page->prot);
}

static inline void page_check(const struct worker *w, const char *addr, const struct page *page,
                              const char *when)
{
    uint64_t copy[WORDS];
    int hidden = !(page->prot & PROT_READ);
    if (hidden && page_peek(addr, copy))
        page_judge(w, addr, page, copy, "through /proc/self/mem");
    if (hidden)
        NEED(mprotect((char *)addr, PAGE, PROT_READ) == 0);
    page_copy(addr, copy);
    page_judge(w, addr, page, copy, when);
    if (hidden)
        NEED(mprotect((char *)addr, PAGE, page->prot) == 0);
}

static inline void area_check(const struct worker *w, const struct area *area, size_t first, size_t count,
                              const char *when)
{
    for (size_t i = first; i < first + count; i++)
        if (!area->page[i].gone)
            page_check(w, page_at(area, i), &area->page[i], when);
}

static inline void area_check_all(const struct worker *w, const char *when)
{
    for (size_t i = 0; i < AREAS; i++)
        area_check(w, &w->areas[i], 0, w->areas[i].pages, when);
}

static inline void area_write(struct worker *w, struct area *area, size_t i)
{
    struct page *page = &area->page[i];
    if (!(page->prot & PROT_WRITE))
        return;
    page_renew(page, fresh_tag(w));
    page_fill((uint64_t *)page_at(area, i), page);
}

/* One word of a page: the rest of it must come from where it was. */
static inline void area_patch(struct worker *w, struct area *area, size_t i)
{
    struct page *page = &area->page[i];
    if (!(page->prot & PROT_WRITE) || page->loose || page->patched)
        return;
    size_t word = draw(w, WORDS);
    page->patched = (uint16_t)(word + 1);
    ((volatile uint64_t *)page_at(area, i))[word] = page_word(page, word);
}

/* Pages that are zeroes from now on. */
static inline void area_zeroed(struct area *area, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++)
        page_renew(&area->page[i], 0);
}

static inline void area_map(struct worker *w, struct area *area, size_t pages)
{
    /* A page of nothing on either side keeps neighbours from being merged. */
    char *addr = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(addr != MAP_FAILED);
    MUST(mprotect(addr + PAGE, pages * PAGE, PROT_READ | PROT_WRITE) == 0);
    *area = (struct area){.addr = addr + PAGE, .pages = pages, .whole = 1};
    for (size_t i = 0; i < pages; i++) {
        area->page[i].prot = PROT_READ | PROT_WRITE;
        if (i % 8 != 3)
            area_write(w, area, i);
    }
}

#endif
