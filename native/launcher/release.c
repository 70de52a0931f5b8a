/* SPDX-License-Identifier: Apache-2.0 */
#include "release.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "detach.h"
#include "proc.h"
#include "report.h"
#include "say.h"
#include "suspend.h"
#include "telemetry.h"
#include "terminal.h"

void release_go(const struct member *member)
{
    uint32_t *go = &member->region.ctl->go;
    __atomic_store_n(go, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static bool is_stopped(const struct launch *launch, const struct member *member)
{
    return (image_process(&launch->image, member->index)->flags & WR_PROCESS_STOPPED) != 0;
}

static bool await_stop(const struct member *member)
{
    static const struct timespec pause = {.tv_nsec = 100000};
    struct proc_stat stat;
    while (!tree_has_ended(member->pidfd) && proc_stat(member->pid, &stat)) {
        if (stat.state == 'T')
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

/* Blocked signals do not keep SIGSTOP out of the futex in which the tree waits: it stops there, and its first
 * instruction is run once it is continued. One that is held, at that instruction already, stops when it is let go. */
static void stop_member(struct member *member)
{
    syscall(SYS_pidfd_send_signal, member->pidfd, SIGSTOP, NULL, 0);
    suspend_detach(member);
    if (!await_stop(member))
        die("process %d ended before it could be stopped, as it was at the checkpoint", member->pid);
    /* What the foreground's job control would follow, had the stop happened while the program ran. */
    waitpid(member->pid, NULL, WUNTRACED | WNOHANG | __WALL);
}

static void check_member(const struct member *member)
{
    if (member->pager == 0)
        die("the pager ended before the program ran: restore it again");
    if (userfaults_fd(&member->userfaults, 0) < 0 || member->pid == 0)
        die("the loader has not handed over its userfaultfd: the image was written by another version");
}

static void release_member(struct member *member)
{
    release_go(member);
    suspend_detach(member);
    telemetry_resumed(&member->region, member->pid);
    member->phase = member->loaded ? PHASE_LEAVING : PHASE_RUNNING;
}

void release_tree(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    struct member *root = tree_root(tree);
    struct wr_counters counters;
    bool stopped = false;
    for (uint32_t i = 0; i < tree->count; i++)
        check_member(&tree->members[i]);
    for (uint32_t i = 0; i < tree->count; i++)
        suspend_lead_out(&tree->members[i]);
    for (uint32_t i = tree->count; i-- > 0;)
        if (is_stopped(launch, &tree->members[i])) {
            stop_member(&tree->members[i]);
            stopped = true;
        }
    if (!launch->options.detach)
        terminal_give(launch);
    for (uint32_t i = tree->count; i-- > 0;)
        release_member(&tree->members[i]);
    launch->resumed_ns = now_ns();
    launch->resume_ms = (double)(launch->resumed_ns - launch->start_ns) / 1e6;
    launch->phase = PHASE_RUNNING;
    tree_count(tree, &counters);
    report_stats("resumed", "resume_ms", launch->resume_ms, &counters);
    report_write_pidfile(&launch->options, root->pid);
    /* One that is stopped leaves the region only when somebody continues it. */
    if (launch->options.fill != WR_FILL_BEFORE || stopped)
        detach_report(root->pid, launch->resume_ms);
}
