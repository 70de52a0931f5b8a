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

struct task {
    pid_t tid;
    bool left;
    uint64_t run_ns; /* when all had executed their last op */
};

static struct task *tasks;
static size_t tasks_count;

/* UINT64_MAX without CONFIG_SCHED_INFO: such a task must be seen elsewhere to count as left. */
static uint64_t run_ns(pid_t pid, pid_t tid)
{
    char name[64], text[128];
    snprintf(name, sizeof(name), "task/%d/schedstat", tid);
    return proc_read(pid, name, text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* Threads that appear later were made by the program itself, outside the region. */
static void note_tasks(const struct tree *tree)
{
    pid_t *tids = malloc(TASKS_MAX * sizeof(*tids));
    size_t count = tids != NULL ? proc_list(tree->target, tids, TASKS_MAX) : 0;
    tasks = calloc(count + 1, sizeof(*tasks));
    for (size_t i = 0; tasks != NULL && i < count; i++)
        tasks[tasks_count++] = (struct task){.tid = tids[i], .run_ns = run_ns(tree->target, tids[i])};
    free(tids);
    if (tasks == NULL)
        die("no memory to look at the threads of PID %d", tree->target);
}

/* proc_pid_syscall(5): "running", "-1 SP PC" or "NR ARG... SP PC"; the program counter comes last. */
static bool task_left(const struct tree *tree, const struct region *region, const struct task *task)
{
    char name[64], text[256];
    snprintf(name, sizeof(name), "task/%d/syscall", task->tid);
    if (proc_read(tree->target, name, text, sizeof(text)) <= 0)
        return errno != EACCES && errno != EPERM;
    const char *last = strrchr(text, ' ');
    if (last != NULL) {
        uint64_t pc = strtoull(last + 1, NULL, 16);
        return pc < region->start || pc >= region->end;
    }
    uint64_t now = run_ns(tree->target, task->tid);
    return now != UINT64_MAX && task->run_ns != UINT64_MAX && now - task->run_ns > LEFT_AFTER_RUN_NS;
}

/* After an exec the old mm, and the region in it, belong to the pager alone. */
static bool has_left_mm(const struct tree *tree)
{
    return syscall(SYS_kcmp, tree->target, tree->pager, KCMP_VM, 0, 0) > 0;
}

bool teardown_ready(const struct tree *tree, const struct region *region, uint32_t threads)
{
    bool all = true;
    if (tree->target_ended || has_left_mm(tree))
        return true;
    if (__atomic_load_n(&region->ctl->left, __ATOMIC_ACQUIRE) < threads)
        return false;
    if (tasks == NULL)
        note_tasks(tree);
    for (size_t i = 0; i < tasks_count; i++) {
        tasks[i].left = tasks[i].left || task_left(tree, region, &tasks[i]);
        all = all && tasks[i].left;
    }
    return all;
}

/* Waits for the next ptrace stop; false when the tracee has ended (it is reaped then). */
static bool wait_stop(struct tree *tree, int *status)
{
    pid_t got;
    do
        got = waitpid(tree->pager, status, __WALL);
    while (got < 0 && errno == EINTR);
    if (got == tree->pager && WIFSTOPPED(*status))
        return true;
    tree->pager = 0;
    return false;
}

/* The region holds the code that the pager runs: the unmap is made from the vDSO, where the code outlives
 * it. */
static const char *unmap_from_vdso(struct tree *tree, uint64_t at_syscall, const struct region *region)
{
    struct user_regs_struct regs;
    int status;
    if (ptrace(PTRACE_SEIZE, tree->pager, NULL, (void *)PTRACE_O_EXITKILL) != 0)
        return "the pager cannot be seized";
    if (ptrace(PTRACE_INTERRUPT, tree->pager, NULL, NULL) != 0 || !wait_stop(tree, &status))
        return "the pager does not stop";
    if (ptrace(PTRACE_GETREGS, tree->pager, NULL, &regs) != 0)
        return "the pager's registers cannot be read";
    regs.rip = at_syscall;
    regs.rax = SYS_munmap;
    regs.orig_rax = (unsigned long long)-1; /* no restart of what the interrupt has broken off */
    regs.rdi = region->start;
    regs.rsi = region->end - region->start;
    if (ptrace(PTRACE_SETREGS, tree->pager, NULL, &regs) != 0 ||
        ptrace(PTRACE_SINGLESTEP, tree->pager, NULL, NULL) != 0 || !wait_stop(tree, &status))
        return "the pager cannot be stepped";
    if (WSTOPSIG(status) != SIGTRAP || ptrace(PTRACE_GETREGS, tree->pager, NULL, &regs) != 0 || regs.rax != 0)
        return "munmap failed in the pager";
    return NULL;
}

void teardown_run(struct tree *tree, const struct image *image, const struct region *region)
{
    const char *trouble = NULL;
    if (!tree->target_ended)
        trouble = unmap_from_vdso(tree, image_process(image)->vdso_syscall, region);
    if (trouble != NULL)
        warn("the program runs on with all its memory, but restorer's own mapping at 0x%llx stays in it: %s",
             (unsigned long long)region->start, trouble);
    if (tree->pager > 0) {
        kill(tree->pager, SIGKILL);
        while (waitpid(tree->pager, NULL, __WALL) < 0 && errno == EINTR)
            continue;
    }
    tree->pager = 0;
    free(tasks);
    tasks = NULL;
    tasks_count = 0;
}
