/* SPDX-License-Identifier: Apache-2.0
 * Threads do at random to their memory whatever the kernel allows, fork children that look at all of it, and hold each
 * page against a model. WORKDIR/torture says "SEED STEPS"; WORKDIR/loads is how many pages were looked at. With
 * WORKDIR/hold it does not end before WORKDIR/end is there. */
#include "torture_acts.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

enum { STORMERS = 64, STORM_PAGES = 64, STEPS = 60, DEEPEST = 2, BRK_PAGES = 128 };

static struct worker workers[WORKERS];
static struct area storm, heap;
static pthread_barrier_t storm_gate, start_gate;
static unsigned long steps = STEPS;
extern char **environ;

/* A child has what its parent had when it forked, but for the pages that were kept from it. */
static void child_inherits(struct worker *w)
{
    for (size_t n = 0; n < AREAS * AREA_PAGES; n++) {
        struct page *page = &w->areas[n / AREA_PAGES].page[n % AREA_PAGES];
        if (page->policy & KEPT) {
            page->gone = 1;
            page->prot = PROT_NONE;
        } else if (page->policy & WIPED) {
            page_renew(page, 0);
        }
    }
}

static void wait_child(pid_t pid)
{
    int status = 0;
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (pid > 0 && status)
        report_wrong("child %d ended with status %#x", pid, status);
}

static int child_runs(struct worker *w, int depth)
{
    pid_t below = -1;
    child_inherits(w);
    for (size_t i = 0; i < AREAS; i++)
        for (size_t n = 0; n < 8; n++)
            area_patch(w, &w->areas[i], draw(w, w->areas[i].pages));
    if (depth < DEEPEST && draw(w, 2)) {
        below = fork();
        if (below == 0)
            return child_runs(w, depth + 1);
    }
    area_check_all(w, depth == 1 ? "in a child" : "in a grandchild");
    if (below != -1)
        wait_child(below);
    return 0;
}

static pid_t fork_one(struct worker *w)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(child_runs(w, 1));
    NEED(pid > 0);
    return pid;
}

static void act_fork(struct worker *w)
{
    pid_t pid = fork_one(w);
    if (draw(w, 2))
        act_write(w);
    area_check(w, &w->areas[0], 0, w->areas[0].pages, "beside a child");
    wait_child(pid);
}

/* Another process reads by process_vm_readv(2), which faults in our memory on its behalf. */
static void act_outsider(struct worker *w)
{
    struct run run = draw_run(w, EXCHANGED);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        uint64_t copy[WORDS];
        struct iovec local = {copy, PAGE};
        for (size_t i = run.first; i < run.first + run.count; i++) {
            struct iovec remote = {page_at(run.area, i), PAGE};
            if (!(run.area->page[i].prot & PROT_READ))
                continue;
            NEED(process_vm_readv(parent, &local, 1, &remote, 1, 0) == (ssize_t)PAGE);
            page_judge(w, remote.iov_base, &run.area->page[i], copy, "from outside");
        }
        _exit(0);
    }
    wait_child(pid);
}

static void act_spawn(struct worker *w)
{
    char *arguments[] = {"true", NULL};
    pid_t pid = -1;
    (void)w;
    NEED(posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ) == 0);
    wait_child(pid);
}

/* The first worker alone: down and up again, where it is zeroes now. */
static void act_brk(struct worker *w)
{
    size_t count = 1 + draw(w, BRK_PAGES / 2);
    if (w->index != 0 || (char *)sbrk(0) != heap.addr + heap.pages * PAGE)
        return;
    NEED(sbrk(-(intptr_t)(count * PAGE)) != (void *)-1);
    area_check(w, &heap, 0, heap.pages - count, "below the break");
    NEED(sbrk((intptr_t)(count * PAGE)) == page_at(&heap, heap.pages - count));
    area_zeroed(&heap, heap.pages - count, count);
    area_check(w, &heap, 0, heap.pages, "after brk");
}

static const struct {
    void (*run)(struct worker *w);
    unsigned weight;
} acts[] = {
    {act_check, 20},   {act_write, 12},  {act_move, 4},    {act_resize, 4},      {act_exchange, 3},
    {act_trim, 2},     {act_replace, 2}, {act_discard, 6}, {act_advise, 4},      {act_fork, 3},
    {act_outsider, 2}, {act_spawn, 1},   {act_brk, 2},     {act_fork_policy, 2}, {act_protect, 5},
    {act_lock, 4},     {act_pipe, 6},    {act_file, 3},    {act_futex, 4},       {act_signal, 4},
};

static void act(struct worker *w)
{
    unsigned all = 0, chosen;
    size_t i = 0;
    for (size_t n = 0; n < sizeof acts / sizeof acts[0]; n++)
        all += acts[n].weight;
    chosen = (unsigned)draw(w, all);
    while (chosen >= acts[i].weight)
        chosen -= acts[i++].weight;
    acts[i].run(w);
}

static void *worker_main(void *argument)
{
    struct worker *w = argument;
    stack_t stack = {.ss_sp = w->altstack, .ss_size = ALTSTACK_PAGES * PAGE};
    MUST(sigaltstack(&stack, NULL) == 0);
    pthread_barrier_wait(&start_gate);
    for (unsigned long n = 0; n < steps && !atomic_load(&report->taken); n++)
        act(w);
    area_check_all(w, "at the end");
    return NULL;
}

/* All at once on the same page, then on the next. */
static void *storm_main(void *argument)
{
    struct worker *w = argument;
    for (size_t i = 0; i < STORM_PAGES; i++) {
        pthread_barrier_wait(&storm_gate);
        area_check(w, &storm, i, 1, "in a storm");
    }
    return NULL;
}

static void storm_run(void)
{
    pthread_t threads[STORMERS];
    MUST(pthread_barrier_init(&storm_gate, NULL, STORMERS) == 0);
    for (size_t i = 0; i < STORMERS; i++)
        MUST(pthread_create(&threads[i], NULL, storm_main, &workers[i % WORKERS]) == 0);
    for (size_t i = 0; i < STORMERS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
}

static void worker_init(struct worker *w, unsigned index)
{
    w->index = index;
    w->random = index;
    w->next_tag = (uint64_t)(index + 1) << 40;
    w->altstack = memory_map(ALTSTACK_PAGES, 0);
    memory_fill(w->altstack, ALTSTACK_PAGES, index);
    char name[32];
    snprintf(name, sizeof name, "file-%u", index);
    w->file = open(test_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(w->file >= 0 && pipe2(w->pipe, O_CLOEXEC) == 0);
    for (size_t i = 0; i < AREAS; i++)
        area_map(w, &w->areas[i], AREA_PAGES - 64);
}

/* The program break's pages come last: what malloc takes later lies above, and brk is left alone then. */
static void heap_init(struct worker *w)
{
    uintptr_t past = (uintptr_t)sbrk(0) % PAGE;
    MUST(sbrk((intptr_t)(PAGE - past + BRK_PAGES * PAGE)) != (void *)-1);
    heap = (struct area){.addr = (char *)sbrk(0) - BRK_PAGES * PAGE, .pages = BRK_PAGES};
    for (size_t i = 0; i < BRK_PAGES; i++) {
        heap.page[i].prot = PROT_READ | PROT_WRITE;
        area_write(w, &heap, i);
    }
}

static void read_orders(void)
{
    char text[64] = "";
    unsigned long seed = 1;
    int fd = open(test_path("torture"), O_RDONLY);
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
        sscanf(text, "%lu %lu", &seed, &steps);
    close(fd);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].random = memory_mix(seed * WORKERS + i);
}

static void write_loads(void)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%lu\n", atomic_load(&report->loads));
    int fd = open(test_path("loads"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, text, (size_t)length) == length && close(fd) == 0);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    pthread_t threads[WORKERS];
    test_init(argc, argv);
    int fd = open(test_path("report"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && ftruncate(fd, (off_t)PAGE) == 0);
    report = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(close(fd) == 0 && report != MAP_FAILED && sigaction(SIGUSR1, &action, NULL) == 0);
    area_map(&workers[0], &storm, STORM_PAGES);
    for (unsigned i = 0; i < WORKERS; i++)
        worker_init(&workers[i], i);
    MUST(pthread_barrier_init(&start_gate, NULL, WORKERS + 1) == 0);
    for (size_t i = 0; i < WORKERS; i++)
        MUST(pthread_create(&threads[i], NULL, worker_main, &workers[i]) == 0);
    heap_init(&workers[0]);
    test_ready();
    test_wait_go();
    memset(report, 0, sizeof *report);
    read_orders();
    storm_run();
    pthread_barrier_wait(&start_gate);
    for (size_t i = 0; i < WORKERS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    if (atomic_load(&report->taken))
        test_differs("%s", report->first);
    write_loads();
    int result = test_done();
    while (access(test_path("hold"), F_OK) == 0 && access(test_path("end"), F_OK) != 0)
        usleep(2000);
    return result;
}
