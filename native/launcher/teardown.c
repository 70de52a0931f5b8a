/* SPDX-License-Identifier: Apache-2.0 */
#include "teardown.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc.h"
#include "say.h"

/* A task that has run this long since its last op has long executed the few instructions that were left. */
#define LEFT_AFTER_RUN_NS UINT64_C(2000000)

enum { TASKS_MAX = 65536 };

struct departure {
    pid_t tid;
    bool left;
    uint64_t run_ns; /* when all had executed their last op */
};

/* UINT64_MAX without CONFIG_SCHED_INFO: such a task must be seen elsewhere to count as left. */
static uint64_t run_ns(pid_t pid, pid_t tid)
{
    char name[64], text[128];
    snprintf(name, sizeof(name), "task/%d/schedstat", tid);
    return proc_read(pid, name, text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* Threads that appear later were made by the program itself, outside the region. */
static void note_departures(struct member *member)
{
    pid_t *tids = malloc(TASKS_MAX * sizeof(*tids));
    size_t count = tids != NULL ? proc_list(member->pid, tids, TASKS_MAX) : 0;
    member->departures = calloc(count + 1, sizeof(*member->departures));
    for (size_t i = 0; member->departures != NULL && i < count; i++)
        member->departures[member->departures_count++] =
            (struct departure){.tid = tids[i], .run_ns = run_ns(member->pid, tids[i])};
    free(tids);
    if (member->departures == NULL)
        die("no memory to look at the threads of PID %d", member->pid);
}

/* proc_pid_syscall(5): "running", "-1 SP PC" or "NR ARG... SP PC"; the program counter comes last. */
static bool task_left(const struct member *member, const struct departure *task)
{
    const struct region *region = &member->region;
    char name[64], text[256];
    snprintf(name, sizeof(name), "task/%d/syscall", task->tid);
    if (proc_read(member->pid, name, text, sizeof(text)) <= 0)
        return errno != EACCES && errno != EPERM;
    const char *last = strrchr(text, ' ');
    if (last != NULL) {
        uint64_t pc = strtoull(last + 1, NULL, 16);
        return pc < region->start || pc >= region->end;
    }
    uint64_t now = run_ns(member->pid, task->tid);
    return now != UINT64_MAX && task->run_ns != UINT64_MAX && now - task->run_ns > LEFT_AFTER_RUN_NS;
}

/* After an exec the old mm, and the region in it, belong to the pager alone; not so when only the leader has ended. */
static bool has_left_mm(const struct member *member)
{
    return syscall(SYS_kcmp, member->pid, member->pager, KCMP_VM, 0, 0) > 0 &&
           !proc_uses(member->pid, member->region.start);
}

bool teardown_ready(struct member *member, uint32_t threads)
{
    bool all = true;
    if (member->ended || has_left_mm(member))
        return true;
    if (__atomic_load_n(&member->region.ctl->left, __ATOMIC_ACQUIRE) < threads)
        return false;
    if (member->departures == NULL)
        note_departures(member);
    for (size_t i = 0; i < member->departures_count; i++) {
        struct departure *task = &member->departures[i];
        task->left = task->left || task_left(member, task);
        all = all && task->left;
    }
    return all;
}

/* Waits for the next ptrace stop; false when the tracee has ended. Also of one that is not our child: a tracer may wait
 * for its tracees (ptrace(2)). */
static bool wait_stop(pid_t pager, int *status)
{
    pid_t got;
    do
        got = waitpid(pager, status, __WALL);
    while (got < 0 && errno == EINTR);
    return got == pager && WIFSTOPPED(*status);
}

/* The region holds the code that the pager runs: the unmap is made from the vDSO, where the code outlives
 * it. */
static const char *unmap_from_vdso(pid_t pager, uint64_t at_syscall, const struct region *region)
{
    struct user_regs_struct regs;
    int status;
    if (ptrace(PTRACE_SEIZE, pager, NULL, (void *)PTRACE_O_EXITKILL) != 0)
        return "the pager cannot be seized";
    if (ptrace(PTRACE_INTERRUPT, pager, NULL, NULL) != 0 || !wait_stop(pager, &status))
        return "the pager does not stop";
    if (ptrace(PTRACE_GETREGS, pager, NULL, &regs) != 0)
        return "the pager's registers cannot be read";
    regs.rip = at_syscall;
    regs.rax = SYS_munmap;
    regs.orig_rax = (unsigned long long)-1; /* no restart of what the interrupt has broken off */
    regs.rdi = region->start;
    regs.rsi = region->end - region->start;
    if (ptrace(PTRACE_SETREGS, pager, NULL, &regs) != 0 ||
        ptrace(PTRACE_SINGLESTEP, pager, NULL, NULL) != 0 || !wait_stop(pager, &status))
        return "the pager cannot be stepped";
    if (WSTOPSIG(status) != SIGTRAP || ptrace(PTRACE_GETREGS, pager, NULL, &regs) != 0 || regs.rax != 0)
        return "munmap failed in the pager";
    return NULL;
}

/* Its tracer is told of its end first, and only then can its parent reap it (wait_task_zombie). */
static void kill_pager(struct member *member)
{
    kill(member->pager, SIGKILL);
    while (waitpid(member->pager, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    tree_end_pager(member);
}

void teardown_run(struct member *member, const struct image *image)
{
    const struct region *region = &member->region;
    const char *trouble = NULL;
    if (!member->ended)
        trouble = unmap_from_vdso(member->pager, image_process(image, member->index)->vdso_syscall, region);
    if (trouble != NULL)
        warn("the program runs on with all its memory, but restorer's own mapping at 0x%llx stays in it: %s",
             (unsigned long long)region->start, trouble);
    kill_pager(member);
    free(member->departures);
    member->departures = NULL;
    member->departures_count = 0;
}
