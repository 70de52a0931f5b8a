/* SPDX-License-Identifier: Apache-2.0
 *
 * heap FOLDER MEGABYTES TOUCHES: a heap of small records, as C programs have them. Once FOLDER/go is there, as many of its
 * pages as TOUCHES says are read in random order by one thread, each compared with what it must hold; then FOLDER/result
 * tells when the first and the last were read (CLOCK_MONOTONIC, ns) and how long each took: median and 99th percentile
 * of those that took longer than a page that is there can take.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RECORDS = PAGE / 64, LOOK_US = 100, FAULT_NS = 1500 };

/* As malloc would lay it out: its own word before what the program has. */
struct record {
    uint64_t malloc_size;
    struct record *next;
    uint64_t id;
    uint32_t hash, length;
    char name[20];
    uint32_t flags;
    double weight;
};
_Static_assert(sizeof(struct record) == 64, "a page holds a whole number of records");

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

/* Entries of a hash table: chained to others made about the same time, with a hash that looks random. */
static void fill(struct record *heap, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t random = mix(i), back = random % 256 + 1;
        heap[i] = (struct record){.malloc_size = sizeof(struct record) | 1,
                                  .next = back > i ? NULL : &heap[i - back],
                                  .id = i,
                                  .hash = (uint32_t)(random >> 32),
                                  .flags = (uint32_t)(random & 3),
                                  .weight = (double)(random % 100) / 4};
        heap[i].length =
            (uint32_t)snprintf(heap[i].name, sizeof heap[i].name, "user:%08lu", (unsigned long)i);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    uint64_t pages = argc == 4 ? strtoull(argv[2], NULL, 10) * 256 : 0,
             touches = argc == 4 ? strtoull(argv[3], NULL, 10) : 0;
    if (!pages || !touches) {
        fprintf(stderr, "usage: heap FOLDER MEGABYTES TOUCHES\n");
        return 2;
    }
    struct record *heap =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t *took_ns = calloc(touches, sizeof *took_ns), faults = 0, began, ended;
    if (heap == MAP_FAILED || !took_ns || chdir(argv[1]))
        die("heap");
    fill(heap, pages * RECORDS);
    memset(took_ns, 1, touches * sizeof *took_ns);
    fclose(fopen("ready", "w"));
    while (access("go", F_OK))
        usleep(LOOK_US);
    began = now_ns();
    for (uint64_t i = 0; i < touches; i++) {
        uint64_t index = mix(i + 1) % pages * RECORDS, before = now_ns(),
                 id = *(volatile uint64_t *)&heap[index].id, ns = now_ns() - before;
        if (id != index) {
            fprintf(stderr, "heap: record %lu is wrong\n", (unsigned long)index);
            abort();
        }
        if (ns > FAULT_NS)
            took_ns[faults++] = ns;
    }
    ended = now_ns();
    qsort(took_ns, faults, sizeof *took_ns, compare);
    FILE *result = fopen("result.new", "w");
    fprintf(result,
            "{\"began_ns\": %lu, \"ended_ns\": %lu, \"faults\": %lu, \"median_ns\": %lu, \"p99_ns\": %lu}\n",
            (unsigned long)began, (unsigned long)ended, (unsigned long)faults,
            (unsigned long)took_ns[faults / 2], (unsigned long)took_ns[faults * 99 / 100]);
    if (fclose(result) || rename("result.new", "result"))
        die("result");
    for (;;)
        pause();
}
