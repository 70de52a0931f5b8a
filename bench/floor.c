/* SPDX-License-Identifier: Apache-2.0
 *
 * floor FRAMES PAGES: what the parts of an answer to a fault cost by themselves, medians in ns: the round trip of one fault
 * to a thread that does nothing but copy one page into place; decoding one chunk; copying the 16 pages of a chunk into
 * place. FRAMES holds frames of a store, each behind its length (32 bits); PAGES faults are taken. Nobody is pinned, and the CPUs
 * are kept awake, as during a restore.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <lz4.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "../native/include/wire.h"
#include "../native/pager/uffd.h"

enum { PAGE = 4096, CHUNK = 65536 };

static uint64_t pages, *took_ns;
static uint8_t *area, *source;
static int uffd;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static void *map(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        die("mmap");
    return at;
}

static void watch(uint64_t bytes)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uint64_t)area, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &range))
        die("userfaultfd");
}

static int copy(uint64_t to, uint64_t bytes)
{
    struct uffdio_copy arg = {.dst = to, .src = (uint64_t)source, .len = bytes};
    return ioctl(uffd, UFFDIO_COPY, &arg);
}

static void *handle(void *nothing)
{
    struct uffd_msg message;
    while (read(uffd, &message, sizeof message) == sizeof message)
        copy(message.arg.pagefault.address & ~(uint64_t)(PAGE - 1), PAGE);
    return nothing;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(uint64_t count)
{
    qsort(took_ns, count, sizeof *took_ns, compare);
    return took_ns[count / 2];
}

/* Each page of every 16th only, in random order: all of them fault. */
static uint64_t round_trip(void)
{
    pthread_t handler;
    area = map(pages * PAGE * 16);
    watch(pages * PAGE * 16);
    if (pthread_create(&handler, NULL, handle, NULL))
        die("pthread_create");
    for (uint64_t i = 0; i < pages; i++) {
        volatile uint8_t *page = area + (i * 7919 % pages) * PAGE * 16;
        uint64_t began = now_ns();
        (void)*page;
        took_ns[i] = now_ns() - began;
    }
    return median(pages);
}

static uint64_t install(void)
{
    munmap(area, pages * PAGE * 16);
    area = map(pages * CHUNK);
    watch(pages * CHUNK);
    for (uint64_t i = 0; i < pages; i++) {
        uint64_t began = now_ns();
        if (copy((uint64_t)area + i * CHUNK, CHUNK))
            die("UFFDIO_COPY");
        took_ns[i] = now_ns() - began;
    }
    return median(pages);
}

/* Checks and decodes a frame, as docs/format.md has it. */
static void decode_one(ZSTD_DCtx *context, const uint8_t *frame, uint32_t bytes)
{
    uint32_t magic, check, covered = bytes - sizeof check;
    memcpy(&magic, frame, sizeof magic);
    memcpy(&check, frame + covered, sizeof check);
    if (magic != WR_LZ4_MAGIC) {
        if (ZSTD_isError(ZSTD_decompressDCtx(context, source, CHUNK, frame, bytes)))
            die("ZSTD_decompressDCtx");
        return;
    }
    if ((uint32_t)XXH3_64bits(frame, covered) != check ||
        LZ4_decompress_safe((const char *)frame + sizeof(struct wr_lz4), (char *)source,
                            (int)(covered - sizeof(struct wr_lz4)), CHUNK) < 0)
        die("LZ4_decompress_safe");
}

static uint64_t decode(const char *path)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        die(path);
    const uint8_t *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    const uint8_t **frames = calloc(pages, sizeof *frames);
    ZSTD_DCtx *context = ZSTD_createDCtx();
    uint64_t count = 0;
    uint32_t bytes;
    for (const uint8_t *at = file; at < file + st.st_size && count < pages; at += sizeof bytes + bytes) {
        memcpy(&bytes, at, sizeof bytes);
        frames[count++] = at;
    }
    for (uint64_t i = 0; i < pages; i++) {
        const uint8_t *at = frames[mix(i) % count];
        uint64_t began = now_ns();
        memcpy(&bytes, at, sizeof bytes);
        decode_one(context, at + sizeof bytes, bytes);
        took_ns[i] = now_ns() - began;
    }
    return median(pages);
}

int main(int argc, char **argv)
{
    static const int32_t awake_us = 0;
    int awake = open("/dev/cpu_dma_latency", O_WRONLY);
    pages = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (!pages) {
        fprintf(stderr, "usage: floor FRAMES PAGES\n");
        return 2;
    }
    if (awake >= 0 && write(awake, &awake_us, sizeof awake_us) < 0)
        die("/dev/cpu_dma_latency");
    took_ns = calloc(pages, sizeof *took_ns);
    source = map(CHUNK);
    memset(source, 1, CHUNK);
    memset(took_ns, 1, pages * sizeof *took_ns);
    uint64_t round_trip_ns = round_trip(), install_ns = install(), decode_ns = decode(argv[1]);
    printf("{\"round_trip_ns\": %lu, \"decode_ns\": %lu, \"install_ns\": %lu}\n",
           (unsigned long)round_trip_ns, (unsigned long)decode_ns, (unsigned long)install_ns);
    return 0;
}
