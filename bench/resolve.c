/* SPDX-License-Identifier: Apache-2.0
 *
 * resolve METHOD FAULTS: one thread touches FAULTS missing pages in random order, another resolves each fault by METHOD
 * (move, copy, mremap) and says how long that took and how many mappings it made. `resolve fork 1`: what MOVE says of a
 * page that a fork has shared. All on one CPU, so that placement does not decide.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../native/pager/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { PAGE = 4096, WORDS = PAGE / 8, STAGING_PAGES = 64, SAMPLES = 8, FAULTS_MIN = 1000 };

/* When mappings are counted: close together in the beginning, where mremap comes to its end. */
static const uint64_t sample_permille[SAMPLES] = {0, 10, 20, 30, 100, 250, 500, 1000};

static uint64_t faults;
static int uffd;
static uint8_t *area, *staging;
static uint64_t staging_next;
static uint32_t *order;
static uint64_t *took_ns;
static _Atomic uint64_t touched;
static uint64_t vmas[SAMPLES], samples_done;

static void die(const char *what)
{
    fprintf(stderr, "resolve: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *map(uint64_t pages)
{
    void *addr = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (addr == MAP_FAILED)
        die("mmap");
    return addr;
}

static void build(uint8_t *page, uint64_t target)
{
    uint64_t *words = (uint64_t *)page;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = target + i;
}

static int by_move(uint64_t target)
{
    uint8_t *page = staging + staging_next++ % STAGING_PAGES * PAGE;
    struct uffdio_move arg = {.dst = target, .src = (uint64_t)page, .len = PAGE};
    build(page, target);
    return ioctl(uffd, UFFDIO_MOVE, &arg) ? errno : 0;
}

static int by_copy(uint64_t target)
{
    struct uffdio_copy arg = {.dst = target, .src = (uint64_t)staging, .len = PAGE};
    build(staging, target);
    return ioctl(uffd, UFFDIO_COPY, &arg) ? errno : 0;
}

/* Each page needs a mapping of its own to come from, and stays one where it goes. */
static int by_mremap(uint64_t target)
{
    struct uffdio_range range = {.start = target, .len = PAGE};
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return errno;
    build(page, target);
    if (mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)target) == MAP_FAILED)
        return errno;
    return ioctl(uffd, UFFDIO_WAKE, &range) ? errno : 0;
}

static uint64_t count_vmas(void)
{
    static char text[1 << 16];
    uint64_t lines = 0;
    ssize_t n;
    int fd = open("/proc/self/maps", O_RDONLY);
    while (fd >= 0 && (n = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < n; i++)
            lines += text[i] == '\n';
    close(fd);
    return lines;
}

static void *toucher(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; i < faults; i++) {
        volatile uint64_t *page = (uint64_t *)(area + (uint64_t)order[i] * PAGE);
        uint64_t began = now_ns(), first = page[0];
        took_ns[i] = now_ns() - began;
        if (first != (uint64_t)page || page[WORDS - 1] != (uint64_t)page + WORDS - 1) {
            fprintf(stderr, "resolve: page %u is wrong\n", order[i]);
            exit(1);
        }
        if (samples_done < SAMPLES && i + 1 >= faults * sample_permille[samples_done] / 1000)
            vmas[samples_done++] = count_vmas();
        atomic_store(&touched, i + 1);
    }
    return NULL;
}

static void shuffle(void)
{
    uint64_t random = 1;
    for (uint64_t i = 0; i < faults; i++)
        order[i] = (uint32_t)i;
    for (uint64_t i = faults; i-- > 1;) {
        random = random * 6364136223846793005ULL + 1442695040888963407ULL;
        uint64_t other = (random >> 33) % (i + 1);
        uint32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register registration = {.range = {(uint64_t)area, faults * PAGE},
                                           .mode = UFFDIO_REGISTER_MODE_MISSING};
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    uffd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC)
                       : (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &registration))
        die("userfaultfd");
}

/* Until all are touched or one cannot be resolved: its errno. */
static int resolve_all(int (*resolve)(uint64_t target))
{
    for (uint64_t served = 0; served < faults; served++) {
        struct uffd_msg message;
        if (read(uffd, &message, sizeof message) != sizeof message)
            die("reading the userfaultfd");
        int error = resolve(message.arg.pagefault.address & ~(uint64_t)(PAGE - 1));
        if (error)
            return error;
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void say(uint64_t began_ns, int error)
{
    uint64_t done = atomic_load(&touched), wall_ns = now_ns() - began_ns;
    qsort(took_ns, done, sizeof *took_ns, compare);
    printf("{\"done\": %llu, \"wall_ns\": %llu, \"median_ns\": %llu, \"p99_ns\": %llu, \"error\": \"%s\", "
           "\"vmas\": [%llu",
           (unsigned long long)done, (unsigned long long)wall_ns, (unsigned long long)took_ns[done / 2],
           (unsigned long long)took_ns[done * 99 / 100], error ? strerrorname_np(error) : "",
           (unsigned long long)vmas[0]);
    for (uint64_t i = 1; i < samples_done; i++)
        printf(", %llu", (unsigned long long)vmas[i]);
    printf("], \"vmas_end\": %llu}\n", (unsigned long long)count_vmas());
}

static int measure(int (*resolve)(uint64_t target))
{
    pthread_t thread;
    area = map(faults);
    staging = map(STAGING_PAGES);
    order = malloc(faults * sizeof *order);
    took_ns = calloc(faults, sizeof *took_ns);
    if (!order || !took_ns || madvise(staging, STAGING_PAGES * PAGE, MADV_DONTFORK))
        die("memory");
    memset(took_ns, 1, faults * sizeof *took_ns);
    shuffle();
    open_uffd();
    vmas[samples_done++] = count_vmas();
    uint64_t began = now_ns();
    if (pthread_create(&thread, NULL, toucher, NULL))
        die("pthread_create");
    int error = resolve_all(resolve);
    if (!error)
        pthread_join(thread, NULL);
    say(began, error);
    fflush(stdout);
    _exit(0);
}

static const char *move_result(uint64_t target)
{
    struct uffdio_move arg = {.dst = target, .src = (uint64_t)staging, .len = PAGE};
    return ioctl(uffd, UFFDIO_MOVE, &arg) ? strerrorname_np(errno) : "ok";
}

/* A page of staging that a child shares, after the child's end, and after it was written again. */
static int measure_fork(void)
{
    faults = 4;
    area = map(faults);
    open_uffd();
    for (int kept = 0; kept < 2; kept++) {
        staging = map(1);
        if (kept && madvise(staging, PAGE, MADV_DONTFORK))
            die("MADV_DONTFORK");
        build(staging, (uint64_t)area);
        pid_t pid = fork();
        if (pid == 0) {
            pause();
            _exit(0);
        }
        const char *shared = move_result((uint64_t)area + (uint64_t)kept * 3 * PAGE), *after, *rewritten;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        after = kept ? "" : move_result((uint64_t)area + PAGE);
        build(staging, (uint64_t)area);
        rewritten = kept ? "" : move_result((uint64_t)area + 2 * PAGE);
        printf("%s\"%s\": [\"%s\", \"%s\", \"%s\"]%s", kept ? "" : "{", kept ? "dontfork" : "plain", shared,
               after, rewritten, kept ? "}\n" : ", ");
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    faults = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (faults >= FAULTS_MIN && strcmp(argv[1], "move") == 0)
        return measure(by_move);
    if (faults >= FAULTS_MIN && strcmp(argv[1], "copy") == 0)
        return measure(by_copy);
    if (faults >= FAULTS_MIN && strcmp(argv[1], "mremap") == 0)
        return measure(by_mremap);
    if (faults && strcmp(argv[1], "fork") == 0)
        return measure_fork();
    fprintf(stderr, "usage: resolve move|copy|mremap|fork FAULTS (at least %d)\n", FAULTS_MIN);
    return 2;
}
