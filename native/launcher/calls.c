/* SPDX-License-Identifier: Apache-2.0 */
#include "calls.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "proc.h"
#include "say.h"

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* A thread that waits for its event to be read sleeps, but is woken when any other is read (userfaultfd_event_complete), and
 * then runs a few instructions until it sleeps again. One that has run this long since we looked is none of them. */
#define AWAKE_NS    UINT64_C(2000000)
#define PATIENCE_NS UINT64_C(5000000000)

enum { PROCESSES_MAX = 65536, THREADS_MAX = 65536, CHILDREN_BYTES = 1 << 20, LOOKS_MAX = 10 };

struct awake {
    pid_t pid, tid;
    uint64_t run_ns;
};

/* All that descends from us, as one look has found it. */
struct look {
    pid_t *pids;
    size_t count;
    pid_t *tids;
    struct awake *awake;
    size_t awake_count;
    char *children;
};

static uint64_t run_ns(pid_t tid)
{
    char text[128];
    return proc_read(tid, "schedstat", text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static void note(struct wr_calls *calls, pid_t pid, const char *text)
{
    char *at;
    uint64_t arg[4];
    long nr = strtol(text, &at, 10);
    if (nr != SYS_madvise && nr != SYS_process_madvise)
        return;
    for (int i = 0; i < 4; i++)
        arg[i] = strtoull(at, &at, 16);
    if (calls->count >= WR_CALLS) {
        calls->count = WR_CALLS + 1;
        return;
    }
    struct wr_call *call = &calls->list[calls->count++];
    if (nr == SYS_process_madvise)
        *call = (struct wr_call){0, UINT64_MAX, arg[3], pid};
    else
        *call = (struct wr_call){
            arg[0], (arg[0] + arg[1] + WR_PAGE_BYTES - 1) & ~(uint64_t)(WR_PAGE_BYTES - 1), arg[2], pid};
}

static void note_children(struct look *look, pid_t tid)
{
    char name[48];
    snprintf(name, sizeof(name), "task/%d/children", tid);
    if (proc_read(tid, name, look->children, CHILDREN_BYTES) <= 0)
        return;
    for (char *at = look->children, *end; look->count < PROCESSES_MAX; at = end) {
        pid_t child = (pid_t)strtol(at, &end, 10);
        if (end == at)
            return;
        look->pids[look->count++] = child;
    }
}

/* proc_pid_syscall(5): "NR ARG... SP PC", "-1 SP PC", or "running". False when it runs. */
static bool note_call(struct wr_calls *calls, pid_t pid, pid_t tid)
{
    char text[256];
    if (proc_read(tid, "syscall", text, sizeof(text)) <= 0)
        return true;
    if (strncmp(text, "running", 7) == 0)
        return false;
    note(calls, pid, text);
    return true;
}

/* Until each thread that ran has slept, or has run for long. */
static void settle_awake(struct look *look, struct wr_calls *calls)
{
    static const struct timespec pause = {.tv_nsec = 100000};
    uint64_t end = now_ns() + PATIENCE_NS;
    while (look->awake_count > 0 && now_ns() < end) {
        size_t kept = 0;
        for (size_t i = 0; i < look->awake_count; i++) {
            const struct awake *one = &look->awake[i];
            if (!note_call(calls, one->pid, one->tid) && run_ns(one->tid) - one->run_ns < AWAKE_NS)
                look->awake[kept++] = *one;
        }
        look->awake_count = kept;
        nanosleep(&pause, NULL);
    }
    if (look->awake_count > 0)
        calls->count = WR_CALLS + 1;
}

static void look_around(struct look *look, struct wr_calls *calls)
{
    calls->count = 0;
    look->count = 0;
    look->awake_count = 0;
    look->pids[look->count++] = getpid();
    for (size_t i = 0; i < look->count; i++) {
        size_t threads = proc_list(look->pids[i], look->tids, THREADS_MAX);
        for (size_t k = 0; k < threads; k++) {
            if (i > 0 && !note_call(calls, look->pids[i], look->tids[k]) && look->awake_count < THREADS_MAX)
                look->awake[look->awake_count++] =
                    (struct awake){look->pids[i], look->tids[k], run_ns(look->tids[k])};
            note_children(look, look->tids[k]);
        }
    }
    settle_awake(look, calls);
}

static void look_init(struct look *look)
{
    look->pids = malloc(PROCESSES_MAX * sizeof(*look->pids));
    look->tids = malloc(THREADS_MAX * sizeof(*look->tids));
    look->awake = malloc(THREADS_MAX * sizeof(*look->awake));
    look->children = malloc(CHILDREN_BYTES);
    if (look->pids == NULL || look->tids == NULL || look->awake == NULL || look->children == NULL)
        die("no memory to look at the threads of the program");
}

/* Again until the processes are the same: one whose parent ends meanwhile comes to us, and is found nowhere. */
void calls_answer(struct wr_calls *calls)
{
    static struct look look, before;
    if (look.pids == NULL) {
        look_init(&look);
        look_init(&before);
    }
    before.count = 0;
    for (int i = 0; i < LOOKS_MAX; i++) {
        look_around(&look, calls);
        if (look.count == before.count && memcmp(look.pids, before.pids, look.count * sizeof(pid_t)) == 0)
            break;
        memcpy(before.pids, look.pids, look.count * sizeof(pid_t));
        before.count = look.count;
    }
    __atomic_store_n(&calls->ready, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &calls->ready, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
