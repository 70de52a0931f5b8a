/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lineage.h"
#include "proc.h"
#include "say.h"
#include "signals.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

enum { KILL_ROUNDS = 5000, ZOMBIE_TRIES = 1000 };

static void run_program(const struct region *region, uint64_t stack, uint32_t program)
    __attribute__((noreturn));

/* The launcher's stack is unmapped by the program's first ops: the loader gets its own before it is
 * called. */
static void run_program(const struct region *region, uint64_t stack, uint32_t program)
{
    __asm__ volatile("mov %0, %%rsp\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "call *%1\n\t"
                     "ud2"
                     :
                     : "r"(stack), "r"(region->enter), "D"(region->runtime), "S"((uint64_t)program)
                     : "memory");
    __builtin_unreachable();
}

static void die_clone(pid_t pid, int error)
{
    char who[256];
    struct proc_stat stat;
    if (error == EEXIST && proc_stat(pid, &stat) && stat.state == 'Z')
        die("PID %d has ended but its parent, PID %d, has not waited for it: end that one, or restore with "
            "--pid ns",
            pid, stat.parent);
    if (error == EEXIST && proc_describe(pid, who, sizeof(who)))
        die("PID %d is in use by %s: stop it, or restore with --pid ns", pid, who);
    if (error == EEXIST)
        die("PID %d is in use as a process group or session: end that one's members, or restore with --pid "
            "ns",
            pid);
    if (error == EPERM)
        die("choosing PID %d needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: run as root", pid);
    if (error == EINVAL)
        die("PID %d cannot be chosen here: it may be above kernel.pid_max: raise that, or restore with --pid "
            "ns",
            pid);
    if (error == ENOSYS)
        die("the kernel or a seccomp profile does not allow clone3: Linux 5.5 or later is needed");
    if (error == EAGAIN)
        die("the limit of processes is reached (ulimit -u, or the cgroup's pids.max): raise it");
    die("cannot make process %d: %s", pid, strerror(error));
}

/* Whoever was checkpointed a moment ago may still be waiting to be reaped by its parent. */
static bool wait_for_zombie(pid_t pid, int tries)
{
    static const struct timespec pause = {.tv_nsec = 2000000};
    struct proc_stat stat;
    if (tries == ZOMBIE_TRIES || !proc_stat(pid, &stat) || stat.state != 'Z')
        return false;
    nanosleep(&pause, NULL);
    return true;
}

void tree_clone(struct tree *tree, const struct image *image, const struct region *region)
{
    const struct wr_process *process = image_process(image);
    uint32_t program = process->main_program;
    uint64_t stack = (uint64_t)image->base + image_program(image, program)->stack_offset;
    pid_t pid = process->pid;
    int pidfd = -1, error, tries = 0;
    long child;
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)&pidfd,
        .exit_signal = SIGCHLD,
        .set_tid = (uint64_t)&pid,
        .set_tid_size = 1,
    };
    signals_block_all();
    do {
        child = syscall(SYS_clone3, &args, sizeof(args));
        if (child == 0)
            run_program(region, stack, program);
        error = errno;
    } while (child < 0 && error == EEXIST && wait_for_zombie(pid, tries++));
    signals_unblock_faults();
    if (child < 0)
        die_clone(pid, error);
    tree->target = (pid_t)child;
    tree->target_pidfd = pidfd;
}

void tree_find_pager(struct tree *tree)
{
    tree->pager = proc_other_child(tree->target, tree->init > 0 ? tree->init : tree->guard);
}

static void reap_all(struct tree *tree)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
        if (pid == tree->target && (WIFEXITED(status) || WIFSIGNALED(status))) {
            tree->target_ended = true;
            tree->target_status = status;
        }
    }
}

/* How many descendants got a SIGKILL. Their orphans come to the launcher, which is their subreaper and
 * reaps them; a zombie may still have living threads, so it counts until it is gone. */
static size_t kill_round(const struct tree *tree, struct lineage *all)
{
    size_t killed = 0, count = lineage_list(all, getpid());
    for (size_t i = 0; i < count; i++) {
        pid_t pid = all[i].pid;
        if (!all[i].below || pid == tree->pager || pid == tree->init || pid == tree->guard)
            continue;
        int fd = lineage_pidfd(&all[i]);
        if (fd < 0)
            continue;
        killed += syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0 ? 1 : 0;
        close(fd);
    }
    return killed;
}

static void kill_descendants(struct tree *tree)
{
    static const struct timespec pause = {.tv_nsec = 1000000};
    struct lineage *all = malloc(LINEAGE_MAX * sizeof(*all));
    for (int round = 0; all != NULL && round < KILL_ROUNDS && kill_round(tree, all) != 0; round++) {
        reap_all(tree);
        nanosleep(&pause, NULL);
    }
    free(all);
}

static void kill_child(pid_t *pid)
{
    if (*pid <= 0)
        return;
    kill(*pid, SIGKILL);
    while (waitpid(*pid, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    *pid = 0;
}

/* The pager and the launcher's userfaultfd go last: until all that has missing pages is dead, none may
 * read zeros. The init goes after those that only the launcher can reap: its exit waits for them
 * (zap_pid_ns_processes). */
void tree_kill(struct tree *tree)
{
    if (tree->target > 0) {
        if (!tree->target_ended)
            syscall(SYS_pidfd_send_signal, tree->target_pidfd, SIGKILL, NULL, 0);
        kill_descendants(tree);
        if (!tree->target_ended)
            waitpid(tree->target, &tree->target_status, __WALL);
        tree->target_ended = true;
    }
    kill_child(&tree->pager);
    kill_child(&tree->guard);
    reap_all(tree);
    tree_end_init(tree);
}

void tree_end_init(struct tree *tree)
{
    kill_child(&tree->init);
}
