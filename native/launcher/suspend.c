/* SPDX-License-Identifier: Apache-2.0 */
#include "suspend.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc.h"
#include "release.h"
#include "say.h"

#define SYSCALL_STOP (SIGTRAP | 0x80)

struct seized {
    pid_t tid;
    int deliver; /* a signal that it is stopped at the delivery of, or 0 */
};

static void die_gone(const struct member *member) __attribute__((noreturn));

static void die_gone(const struct member *member)
{
    die("process %d, or a thread of it, ended before it ran", member->pid);
}

static void die_seize(const struct member *member, int error) __attribute__((noreturn));

static void die_seize(const struct member *member, int error)
{
    if (error == EPERM)
        die("process %d had seccomp filters: to restore them needs CAP_SYS_ADMIN and CAP_SYS_PTRACE, and a "
            "launcher that is "
            "under no filter itself, as in a container: run as root, outside",
            member->pid);
    if (error == EINVAL)
        die("process %d had seccomp filters, which this kernel cannot suspend: it needs "
            "CONFIG_CHECKPOINT_RESTORE",
            member->pid);
    die("process %d had seccomp filters, and cannot be seized to suspend them: %s", member->pid,
        strerror(error));
}

/* EXITKILL: without us they would be neither held nor released. */
static void seize(const struct member *member, pid_t tid)
{
    static const uintptr_t options = PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)options) != 0)
        die_seize(member, errno);
}

void suspend_seize(struct member *member, const struct image *image)
{
    uint32_t threads = image_process(image, member->index)->threads;
    uint32_t *suspended = &member->region.ctl->suspended;
    pid_t *tids = calloc(threads, sizeof(*tids));
    member->seized = calloc(threads, sizeof(*member->seized));
    if (tids == NULL || member->seized == NULL)
        die("no memory for %u threads", threads);
    if (proc_list(member->pid, tids, threads) != threads)
        die_gone(member);
    for (uint32_t i = 0; i < threads; i++) {
        seize(member, tids[i]);
        member->seized[member->seized_count++].tid = tids[i];
    }
    free(tids);
    __atomic_store_n(suspended, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, suspended, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int to_deliver(int status)
{
    return status >> 16 == 0 && WSTOPSIG(status) != SYSCALL_STOP ? WSTOPSIG(status) : 0;
}

/* All their signals are blocked, but SIGSTOP cannot be: the process counts as stopped once it is passed on, and each task
 * joins the stop when it is let go. What fails here has just been killed. */
void suspend_pass_on(pid_t tid, int status)
{
    ptrace(PTRACE_CONT, tid, NULL, (void *)(uintptr_t)to_deliver(status));
}

static int await_stop(const struct member *member, pid_t tid)
{
    int status;
    pid_t got;
    do
        got = waitpid(tid, &status, __WALL);
    while (got < 0 && errno == EINTR);
    if (got != tid || !WIFSTOPPED(status))
        die_gone(member);
    return status;
}

/* Leads a stopped task to its next stop at a system call. */
static void next_call(const struct member *member, struct seized *task)
{
    int status;
    do {
        if (ptrace(PTRACE_SYSCALL, task->tid, NULL, (void *)(uintptr_t)task->deliver) != 0)
            die_gone(member);
        status = await_stop(member, task->tid);
        task->deliver = to_deliver(status);
    } while (WSTOPSIG(status) != SYSCALL_STOP);
}

static uint64_t peek(const struct member *member, const struct seized *task, size_t offset)
{
    errno = 0;
    long word = ptrace(PTRACE_PEEKUSER, task->tid, (void *)offset, NULL);
    if (errno != 0)
        die_gone(member);
    return (uint64_t)word;
}

/* To the exit of rt_sigreturn: the frame is loaded, and nothing has run in it yet. It is told by its entry, since at its
 * exit no call is named any more (restore_sigcontext). */
static void lead_out(const struct member *member, struct seized *task)
{
    do
        next_call(member, task);
    while (peek(member, task, offsetof(struct user_regs_struct, orig_rax)) != SYS_rt_sigreturn);
    next_call(member, task);
    uint64_t pc = peek(member, task, offsetof(struct user_regs_struct, rip));
    if (pc >= member->region.start && pc < member->region.end)
        die("process %d cannot be led to where it was", member->pid);
}

/* All are stopped before they may go on: one whose interrupt came late would take it behind its rt_sigreturn, and run. */
void suspend_lead_out(struct member *member)
{
    for (size_t i = 0; i < member->seized_count; i++)
        if (ptrace(PTRACE_INTERRUPT, member->seized[i].tid, NULL, NULL) != 0)
            die_gone(member);
    for (size_t i = 0; i < member->seized_count; i++)
        member->seized[i].deliver = to_deliver(await_stop(member, member->seized[i].tid));
    if (member->seized_count > 0)
        release_go(member);
    for (size_t i = 0; i < member->seized_count; i++)
        lead_out(member, &member->seized[i]);
}

/* One that fails has been killed. */
void suspend_detach(struct member *member)
{
    for (size_t i = 0; i < member->seized_count; i++)
        ptrace(PTRACE_DETACH, member->seized[i].tid, NULL, NULL);
    free(member->seized);
    member->seized = NULL;
    member->seized_count = 0;
}
