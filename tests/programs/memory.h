/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages with a content that tells where they are, and what the kernel says about a mapping.
 */
#ifndef MEMORY_H
#define MEMORY_H
#include "test.h"
#include <sys/mman.h>

#define PAGE ((size_t)4096)

static inline uint64_t memory_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* Page `number` of a region: of every eight, one stays untouched, one is written with zeroes. */
static inline uint64_t memory_word(uint64_t seed, size_t number, size_t word)
{
    return number % 8 == 3 || number % 8 == 5 ? 0 : memory_mix(seed + number * 512 + word);
}

static inline void memory_fill(void *addr, size_t pages, uint64_t seed)
{
    for (size_t number = 0; number < pages; number++) {
        volatile uint64_t *page = (uint64_t *)((char *)addr + number * PAGE);
        for (size_t word = 0; number % 8 != 3 && word < 512; word++)
            page[word] = memory_word(seed, number, word);
    }
}

/* How many pages differ from what memory_fill has written. */
static inline size_t memory_wrong_from(const void *addr, size_t first, size_t pages, uint64_t seed)
{
    size_t wrong = 0;
    for (size_t number = first; number < first + pages; number++) {
        const volatile uint64_t *page = (const uint64_t *)((const char *)addr + (number - first) * PAGE);
        size_t word = 0;
        while (word < 512 && page[word] == memory_word(seed, number, word))
            word++;
        wrong += word < 512;
    }
    return wrong;
}

static inline size_t memory_wrong(const void *addr, size_t pages, uint64_t seed)
{
    return memory_wrong_from(addr, 0, pages, seed);
}

static inline void *memory_map(size_t pages, int flags)
{
    void *addr = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

/* The permissions in /proc/self/maps at `addr`, like "rw-p"; "" where nothing is mapped. */
static inline const char *memory_perms(const void *addr)
{
    static char perms[8];
    char line[4400];
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "re");
    MUST(maps != NULL);
    perms[0] = 0;
    while (fgets(line, sizeof line, maps)) {
        char found[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, found) == 3 && start <= (uintptr_t)addr &&
            (uintptr_t)addr < end)
            strcpy(perms, found);
    }
    fclose(maps);
    return perms;
}

/* A field of /proc/self/smaps for the mapping at `addr`, as text, like "  rd wr mr"; "" when not there. */
static inline const char *memory_smaps(const void *addr, const char *field)
{
    static char value[4400];
    char line[4400];
    unsigned long start, end;
    int inside = 0;
    FILE *smaps = fopen("/proc/self/smaps", "re");
    MUST(smaps != NULL);
    value[0] = 0;
    while (fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)addr && (uintptr_t)addr < end;
        else if (inside && strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':')
            snprintf(value, sizeof value, "%s", line + strlen(field) + 1);
    }
    fclose(smaps);
    value[strcspn(value, "\n")] = 0;
    return value;
}

/* Whether VmFlags has the two letters `flag`. */
static inline int memory_flag(const void *addr, const char *flag)
{
    char wanted[8];
    snprintf(wanted, sizeof wanted, " %s", flag);
    return strstr(memory_smaps(addr, "VmFlags"), wanted) != NULL;
}

/* A file of the test's folder with as many pages of memory_fill's, open for both. */
static inline int memory_file(const char *name, size_t pages, uint64_t seed)
{
    char *content = memory_map(pages, 0);
    memory_fill(content, pages, seed);
    int fd = open(test_path(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, content, pages * PAGE) == (ssize_t)(pages * PAGE));
    MUST(munmap(content, pages * PAGE) == 0);
    return fd;
}

#endif
