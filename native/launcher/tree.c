/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
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

enum { KILL_ROUNDS = 5000, WAIT_TRIES = 1000 };

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

/* Whether a PID in use may soon be free: whoever was checkpointed or killed a moment ago may still be waiting to be
 * reaped by its parent, or be a session in which nobody is left but its pager, which ends when it hears of it. */
static bool wait_until_free(pid_t pid, int tries)
{
    static const struct timespec pause = {.tv_nsec = 2000000};
    struct proc_stat stat;
    if (tries == WAIT_TRIES || (proc_stat(pid, &stat) && stat.state != 'Z'))
        return false;
    nanosleep(&pause, NULL);
    return true;
}

void tree_init(struct tree *tree, const struct image *image)
{
    tree->count = image_header(image)->processes_count;
    tree->members = calloc(tree->count, sizeof(*tree->members));
    if (tree->members == NULL)
        die("no memory for %u processes", tree->count);
    for (uint32_t i = 0; i < tree->count; i++)
        tree->members[i] = (struct member){.index = i,
                                           .phase = PHASE_RUNNING,
                                           .pidfd = -1,
                                           .pager_fd = -1,
                                           .channel = -1,
                                           .channel_child = -1};
}

struct member *tree_root(const struct tree *tree)
{
    return &tree->members[0];
}

/* Why a PID that is in use cannot be chosen: the kernel asks for the capability first (alloc_pid in
 * kernel/pid.c), so asking for our own PID makes no process. */
static int refusal(void)
{
    pid_t own = getpid();
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)&own, .set_tid_size = 1};
    return syscall(SYS_clone3, &args, sizeof(args)) < 0 ? errno : EEXIST;
}

/* An ID that only a session or a process group has is not in /proc: a process that takes it for a moment tells. */
static bool is_taken(pid_t pid)
{
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1};
    long child = syscall(SYS_clone3, &args, sizeof(args));
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return child < 0 && errno == EEXIST;
}

void tree_await_pids(const struct image *image)
{
    struct proc_stat stat;
    const int32_t *pids = image_pids(image);
    for (uint32_t i = 0; i < image_header(image)->pids_count; i++) {
        int tries = 0;
        while (proc_stat(pids[i], &stat) && wait_until_free(pids[i], tries))
            tries++;
        if (proc_stat(pids[i], &stat))
            die_clone(pids[i], refusal());
    }
    for (uint32_t i = 0; i < image_header(image)->leaders_count; i++) {
        /* The root's is seen by tree_clone. */
        bool root = pids[i] == image_process(image, 0)->pid;
        for (int tries = 0; !root && is_taken(pids[i]); tries++)
            if (!wait_until_free(pids[i], tries))
                die_clone(pids[i], EEXIST);
    }
}

void tree_clone(struct tree *tree, const struct image *image)
{
    struct member *root = tree_root(tree);
    const struct wr_process *process = image_process(image, 0);
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
            run_program(&root->region, stack, program);
        error = errno;
    } while (child < 0 && error == EEXIST && wait_until_free(pid, tries++));
    signals_unblock_faults();
    if (child < 0)
        die_clone(pid, error);
    root->pid = (pid_t)child;
    root->pidfd = pidfd;
}

/* The first word counts: the program can write to the memory of whoever sends these. */
static void note(pid_t *pid, int *known, int pidfd)
{
    pid_t found = *known < 0 ? proc_pidfd(pidfd) : 0;
    /* One that has ended already, and that another has reaped, as the init of a namespace does, has no PID any more:
     * its end is met where that of all others is. */
    bool gone = *known < 0 && found <= 0 && tree_has_ended(pidfd);
    if (found <= 0 && !gone) {
        close(pidfd);
        return;
    }
    *pid = gone ? 0 : found;
    *known = pidfd;
}

void tree_note_born(struct member *member, int pidfd)
{
    note(&member->pid, &member->pidfd, pidfd);
}

void tree_note_pager(struct member *member, int pidfd)
{
    note(&member->pager, &member->pager_fd, pidfd);
}

bool tree_has_ended(int pidfd)
{
    struct pollfd gone = {pidfd, POLLIN, 0};
    return pidfd < 0 || poll(&gone, 1, 0) > 0;
}

static void reap_all(struct tree *tree)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
        if (pid == tree_root(tree)->pid && (WIFEXITED(status) || WIFSIGNALED(status))) {
            tree_root(tree)->ended = true;
            tree->root_status = status;
        }
    }
}

static bool is_ours(const struct tree *tree, pid_t pid)
{
    for (uint32_t i = 0; i < tree->count; i++)
        if (pid == tree->members[i].pager)
            return true;
    return pid == tree->init || pid == tree->guard;
}

/* Should a pager have been killed, its keeper may be the only holder of a userfaultfd. */
static bool is_keeper(pid_t pid)
{
    char name[32];
    return proc_read(pid, "comm", name, sizeof(name)) > 0 && strcmp(name, "restorer-keeper\n") == 0;
}

/* How many descendants got a SIGKILL. Their orphans come to the launcher, which is their subreaper and
 * reaps them; a zombie may still have living threads, so it counts until it is gone. */
static size_t kill_round(const struct tree *tree, struct lineage *all, bool keepers)
{
    size_t killed = 0, count = lineage_list(all, getpid());
    for (size_t i = 0; i < count; i++) {
        pid_t pid = all[i].pid;
        if (!all[i].below || is_ours(tree, pid) || (!keepers && is_keeper(pid)))
            continue;
        int fd = lineage_pidfd(&all[i]);
        if (fd < 0)
            continue;
        killed += syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0 ? 1 : 0;
        close(fd);
    }
    return killed;
}

static void kill_descendants(struct tree *tree, bool keepers)
{
    static const struct timespec pause = {.tv_nsec = 1000000};
    struct lineage *all = malloc(LINEAGE_MAX * sizeof(*all));
    for (int round = 0; all != NULL && round < KILL_ROUNDS && kill_round(tree, all, keepers) != 0; round++) {
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

void tree_count(const struct tree *tree, struct wr_counters *counters)
{
    memset(counters, 0, sizeof(*counters));
    for (uint32_t i = 0; i < tree->count; i++) {
        const uint64_t *of = (const uint64_t *)&tree->members[i].region.ctl->counters;
        for (size_t k = 0; k < sizeof(*counters) / sizeof(*of); k++)
            ((uint64_t *)counters)[k] += of[k];
    }
}

void tree_end_pager(struct member *member)
{
    struct pollfd gone = {member->pager_fd, POLLIN, 0};
    if (member->pager_fd < 0)
        return;
    while (poll(&gone, 1, -1) < 0 && errno == EINTR)
        continue;
    /* With --pid ns, a child of the init of the namespace: then there is nothing to reap. */
    if (member->pager > 0)
        waitpid(member->pager, NULL, WNOHANG | __WALL);
    close(member->pager_fd);
    member->pager_fd = -1;
    member->pager = 0;
}

static void kill_members(const struct tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        if (!tree->members[i].ended && tree->members[i].pidfd >= 0)
            syscall(SYS_pidfd_send_signal, tree->members[i].pidfd, SIGKILL, NULL, 0);
}

static void kill_pagers(const struct tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        if (tree->members[i].pager_fd >= 0) {
            syscall(SYS_pidfd_send_signal, tree->members[i].pager_fd, SIGKILL, NULL, 0);
            tree_end_pager(&tree->members[i]);
        }
}

/* The pagers, their keepers and the launcher's userfaultfds go last: until all that has missing pages is dead, none may
 * read zeros. The init goes after those that only the launcher can reap: its exit waits for them
 * (zap_pid_ns_processes). */
void tree_kill(struct tree *tree)
{
    if (tree->count > 0 && tree_root(tree)->pid > 0) {
        kill_members(tree);
        kill_descendants(tree, false);
        if (!tree_root(tree)->ended)
            waitpid(tree_root(tree)->pid, &tree->root_status, __WALL);
        tree_root(tree)->ended = true;
    }
    kill_pagers(tree);
    kill_descendants(tree, true);
    kill_child(&tree->guard);
    reap_all(tree);
    tree_end_init(tree);
}

void tree_end_init(struct tree *tree)
{
    kill_child(&tree->init);
}
