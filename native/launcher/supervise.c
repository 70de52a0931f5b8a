/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detach.h"
#include "failure.h"
#include "guard.h"
#include "messages.h"
#include "namespace.h"
#include "proc.h"
#include "recording.h"
#include "report.h"
#include "say.h"
#include "signals.h"
#include "teardown.h"
#include "terminal.h"

/* From `restorer checkpoint`, which can only take a process that has all its memory: bring the rest now. */
#define SIGNAL_FILL (SIGRTMIN + 1)

enum { TRIES_QUICK = 50, WAIT_QUICK_MS = 1, WAIT_SLOW_MS = 20 };

static void die_restoring(const struct launch *launch, const char *who, int status) __attribute__((noreturn));

static void die_restoring(const struct launch *launch, const char *who, int status)
{
    if (!failure_say(&launch->image, &launch->region))
        failure_say_status(&launch->region, who, status);
    quit(EXIT_OWN_FAILURE);
}

/* Nothing is missing any more: the target can do without the launcher. */
static void leave_alone(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    launch->phase = PHASE_ALONE;
    guard_dismiss(tree);
    userfaults_release_all(&tree->userfaults);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    namespace_release(tree);
    store_close(&launch->store);
    detach_report(tree->target, launch->resume_ms);
}

static void on_pager_end(struct launch *launch, int status)
{
    launch->tree.pager = 0;
    if (launch->phase == PHASE_RESTORING)
        die_restoring(launch, "the pager", status);
    /* It leaves with 0 when nobody is left who could miss a page: after the target's end, or an exec, which has
     * taken the region out of the target's sight. Its word alone would not do: zeroes are silent. */
    bool left = WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
                !proc_maps(launch->tree.target, launch->region.start);
    if (launch->phase == PHASE_LEAVING || launch->tree.target_ended || left)
        leave_alone(launch);
}

/* Killed by somebody: there has to be another as long as memory is missing. */
static void on_guard_end(struct launch *launch)
{
    launch->tree.guard = 0;
    if (launch->tree.guard_link >= 0 && !launch->tree.target_ended)
        guard_start(&launch->tree);
}

static void on_target_change(struct launch *launch, int status)
{
    if (WIFSTOPPED(status)) {
        if (launch->phase != PHASE_RESTORING && !launch->options.detach)
            terminal_follow_stop(&launch->tree, WSTOPSIG(status));
        return;
    }
    if (WIFCONTINUED(status))
        return;
    launch->tree.target_ended = true;
    launch->tree.target_status = status;
    if (launch->phase == PHASE_RESTORING)
        die_restoring(launch, "the loader", status);
}

static void reap(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    int status, pager_status = 0;
    bool pager_ended = false;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED | __WALL)) > 0) {
        bool ended = WIFEXITED(status) || WIFSIGNALED(status);
        if (pid == tree->target) {
            on_target_change(launch, status);
        } else if (pid == tree->init && ended) {
            tree->init = 0;
        } else if (pid == tree->guard && ended) {
            on_guard_end(launch);
        } else if (ended && (pid == tree->pager || launch->phase == PHASE_RESTORING)) {
            pager_ended = true;
            pager_status = status;
        }
    }
    /* Judged last: whoever ended both at once ended the target. */
    if (!pager_ended)
        return;
    on_pager_end(launch, pager_status);
    if (launch->phase == PHASE_RUNNING)
        die("the pager was killed while memory was missing: the program has been killed with it");
}

static void on_signal(struct launch *launch, const struct signalfd_siginfo *info)
{
    int signal = (int)info->ssi_signo;
    if (signal == SIGNAL_FILL)
        launch->region.ctl->fill = WR_FILL_BACKGROUND;
    if (signal == SIGCHLD || signal == SIGNAL_FILL || launch->options.detach)
        return;
    if (launch->phase != PHASE_RESTORING)
        terminal_forward(&launch->tree, info);
    else if (signal == SIGHUP || signal == SIGINT || signal == SIGQUIT || signal == SIGTERM)
        quit(128 + signal);
}

static void read_signals(struct launch *launch, int fd)
{
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof(info)) == sizeof(info))
        on_signal(launch, &info);
}

static void try_teardown(struct launch *launch)
{
    launch->teardown_tries++;
    if (!teardown_ready(&launch->tree, &launch->region, image_process(&launch->image)->threads))
        return;
    teardown_run(&launch->tree, &launch->image, &launch->region);
    leave_alone(launch);
}

/* PR_SET_PDEATHSIG: a launcher that left a program which asked for it would kill it by leaving. */
static bool may_leave(const struct launch *launch)
{
    return launch->options.detach && !(image_process(&launch->image)->flags & WR_PROCESS_DEATH_SIGNAL);
}

static bool finished(const struct launch *launch)
{
    if (launch->phase == PHASE_ALONE && may_leave(launch))
        return true;
    return launch->tree.target_ended && launch->tree.pager == 0;
}

static int poll_timeout_ms(const struct launch *launch)
{
    if (launch->phase != PHASE_LEAVING)
        return recording_wait_ms(launch);
    return launch->teardown_tries < TRIES_QUICK ? WAIT_QUICK_MS : WAIT_SLOW_MS;
}

static void step(struct launch *launch, int signals)
{
    struct pollfd fds[] = {
        {signals, POLLIN, 0},
        {launch->tree.channel, POLLIN, 0},
        {detach_fd(), 0, 0},
    };
    if (poll(fds, 3, poll_timeout_ms(launch)) < 0 && errno != EINTR)
        die("cannot wait for the restored process: %s", strerror(errno));
    /* Before the ends of processes: what they said last explains them. */
    messages_drain(launch);
    read_signals(launch, signals);
    reap(launch);
    if (recording_wait_ms(launch) == 0)
        recording_finish(launch);
    if (launch->phase == PHASE_RESTORING && fds[2].revents != 0)
        quit(EXIT_OWN_FAILURE);
    if (launch->phase == PHASE_LEAVING)
        try_teardown(launch);
}

static int exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int supervise(struct launch *launch)
{
    int signals = signals_fd();
    while (!finished(launch))
        step(launch, signals);
    recording_finish(launch);
    terminal_take();
    if (launch->tree.target_ended)
        tree_end_init(&launch->tree);
    if (launch->options.detach)
        return 0;
    int code = exit_code(launch->tree.target_status);
    if (launch->options.json)
        report_json(STDERR_FILENO, launch->options.name, launch->tree.target, launch->resume_ms, code);
    return code;
}
