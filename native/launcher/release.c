/* SPDX-License-Identifier: Apache-2.0 */
#include "release.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detach.h"
#include "report.h"
#include "say.h"
#include "telemetry.h"
#include "terminal.h"

static void set_going(struct wr_ctl *ctl)
{
    __atomic_store_n(&ctl->go, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &ctl->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Blocked signals do not keep SIGSTOP out of the futex in which the tree waits: it stops there, and its first
 * instruction is run once it is continued. */
static void stop_target(const struct tree *tree)
{
    int status;
    pid_t got;
    syscall(SYS_pidfd_send_signal, tree->target_pidfd, SIGSTOP, NULL, 0);
    do
        got = waitpid(tree->target, &status, WUNTRACED | __WALL);
    while (got < 0 && errno == EINTR);
    if (got < 0 || !WIFSTOPPED(status))
        die("the process ended before it could be stopped, as it was at the checkpoint");
}

void release_tree(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    struct wr_ctl *ctl = launch->region.ctl;
    bool stopped = (image_process(&launch->image)->flags & WR_PROCESS_STOPPED) != 0;
    tree_find_pager(tree);
    if (tree->pager == 0)
        die("the pager ended before the program ran: restore it again");
    if (userfaults_fd(&tree->userfaults, 0) < 0)
        die("the loader has not handed over its userfaultfd: the image was written by another version");
    if (stopped)
        stop_target(tree);
    if (!launch->options.detach)
        terminal_give(tree);
    set_going(ctl);
    launch->resumed_ns = now_ns();
    launch->resume_ms = (double)(launch->resumed_ns - launch->start_ns) / 1e6;
    telemetry_resumed(&launch->region, tree->target);
    launch->phase = launch->loaded_ms > 0 ? PHASE_LEAVING : PHASE_RUNNING;
    report_stats("resumed", "resume_ms", launch->resume_ms, &ctl->counters);
    report_write_pidfile(&launch->options, tree->target);
    if (launch->options.fill != WR_FILL_BEFORE || stopped)
        detach_report(tree->target, launch->resume_ms);
}
