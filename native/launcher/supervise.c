/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "awake.h"
#include "detach.h"
#include "failure.h"
#include "guard.h"
#include "messages.h"
#include "namespace.h"
#include "proc.h"
#include "recording.h"
#include "relay.h"
#include "report.h"
#include "say.h"
#include "signals.h"
#include "suspend.h"
#include "teardown.h"
#include "terminal.h"

/* From `restorer checkpoint`, which can only take a process that has all its memory: bring the rest now. */
#define SIGNAL_FILL (SIGRTMIN + 1)

enum { TRIES_QUICK = 50, WAIT_QUICK_MS = 1, WAIT_SLOW_MS = 20 };

static void die_restoring(const struct launch *launch, const struct member *member, const char *who,
                          int status) __attribute__((noreturn));

static void die_restoring(const struct launch *launch, const struct member *member, const char *who,
                          int status)
{
    for (uint32_t i = 0; i < launch->tree.count; i++)
        if (failure_say(&launch->image, &launch->tree.members[i].region))
            quit(EXIT_OWN_FAILURE);
    failure_say_status(&member->region, who, status);
    quit(EXIT_OWN_FAILURE);
}

/* Nothing is missing any more: the tree can do without the launcher. */
static void leave_tree_alone(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    launch->phase = PHASE_ALONE;
    awake_end();
    guard_dismiss(tree);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    namespace_release(tree);
    store_close(&launch->store);
    detach_report(tree_root(tree)->pid, launch->resume_ms);
}

static void leave_alone(struct launch *launch, struct member *member)
{
    bool all = true;
    member->phase = PHASE_ALONE;
    for (size_t i = 0; i < member->userfaults.count; i++)
        guard_drop(&launch->tree, member, member->userfaults.held[i].number);
    userfaults_release_all(&member->userfaults);
    for (uint32_t i = 0; i < launch->tree.count; i++)
        all = all && launch->tree.members[i].phase == PHASE_ALONE;
    if (all)
        leave_tree_alone(launch);
}

/* Whether nobody is left who could miss a page: after the member's end, or an exec, which has taken the region out of its
 * sight. The pager's word alone would not do: zeroes are silent. */
static bool may_do_without(const struct member *member)
{
    return member->phase == PHASE_LEAVING || member->ended ||
           (member->pager_left && !proc_uses(member->pid, member->region.start));
}

static void on_pager_end(struct launch *launch, struct member *member, int status)
{
    if (launch->phase == PHASE_RESTORING)
        die_restoring(launch, member, "the pager", status);
    /* Before the ends of processes: what they said last explains them. Whoever ended both at once ended the member. */
    messages_drain(launch);
    member->ended = member->ended || tree_has_ended(member->pidfd);
    tree_end_pager(member);
    if (!may_do_without(member))
        die("the pager of process %d was killed while memory was missing: the program has been killed with "
            "it",
            member->pid);
    leave_alone(launch, member);
}

/* Killed by somebody: there has to be another as long as memory is missing. */
static void on_guard_end(struct launch *launch)
{
    launch->tree.guard = 0;
    if (launch->tree.guard_link >= 0)
        guard_start(&launch->tree);
}

/* The kernel asks for no missing page when it dumps core (handle_userfault in fs/userfaultfd.c): nothing can bring it
 * then, and what it leaves out a debugger shows as zeroes. */
static void warn_of_core(const struct member *root, int status)
{
    if (WIFSIGNALED(status) && WCOREDUMP(status) && !root->loaded)
        warn("the core dump of process %d was made while memory was missing: what it lacks reads as zeroes; "
             "to "
             "have all of it, restore with --fill before",
             root->pid);
}

static void on_root_change(struct launch *launch, int status)
{
    struct member *root = tree_root(&launch->tree);
    if (WIFSTOPPED(status)) {
        if (!launch->options.detach)
            terminal_follow_stop(&launch->tree, WSTOPSIG(status));
        return;
    }
    if (WIFCONTINUED(status))
        return;
    root->ended = true;
    launch->tree.root_status = status;
    warn_of_core(root, status);
    if (launch->phase == PHASE_RESTORING)
        die_restoring(launch, root, "the loader", status);
}

static void reap(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED | __WALL)) > 0) {
        bool ended = WIFEXITED(status) || WIFSIGNALED(status);
        if (WIFSTOPPED(status) && launch->phase == PHASE_RESTORING)
            suspend_pass_on(pid, status);
        else if (pid == tree_root(tree)->pid)
            on_root_change(launch, status);
        else if (pid == tree->init && ended)
            tree->init = 0;
        else if (pid == tree->guard && ended)
            on_guard_end(launch);
        else if (ended && launch->phase == PHASE_RESTORING)
            die_restoring(launch, tree_root(tree), "the pager", status);
    }
}

/* Those that are no children of the launcher, and the pagers. */
static void look_at_members(struct launch *launch)
{
    struct tree *tree = &launch->tree;
    for (uint32_t i = 0; i < tree->count; i++) {
        struct member *member = &tree->members[i];
        if (i > 0 && member->pidfd >= 0 && !member->ended && tree_has_ended(member->pidfd)) {
            member->ended = true;
            if (launch->phase == PHASE_RESTORING)
                die_restoring(launch, member, "the loader", 0);
        }
        if (member->pager_fd >= 0 && tree_has_ended(member->pager_fd))
            on_pager_end(launch, member, 0);
    }
}

static void fill_all(const struct tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        tree->members[i].region.ctl->fill = WR_FILL_BACKGROUND;
}

static void on_signal(struct launch *launch, const struct signalfd_siginfo *info)
{
    int signal = (int)info->ssi_signo;
    if (signal == SIGNAL_FILL)
        fill_all(&launch->tree);
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

static void try_teardown(struct launch *launch, struct member *member)
{
    member->teardown_tries++;
    if (!teardown_ready(member, image_process(&launch->image, member->index)->threads))
        return;
    teardown_run(member, &launch->image);
    leave_alone(launch, member);
}

/* PR_SET_PDEATHSIG: a launcher that left a program which asked for it would kill it by leaving. */
static bool may_leave(const struct launch *launch)
{
    return launch->options.detach && !(image_process(&launch->image, 0)->flags & WR_PROCESS_DEATH_SIGNAL);
}

static bool finished(const struct launch *launch)
{
    return launch->phase == PHASE_ALONE && (may_leave(launch) || tree_root(&launch->tree)->ended);
}

/* -1 is never. */
static int sooner_ms(int a_ms, int b_ms)
{
    return a_ms < 0 || (b_ms >= 0 && b_ms < a_ms) ? b_ms : a_ms;
}

static int poll_timeout_ms(const struct launch *launch)
{
    uint32_t tries = UINT32_MAX;
    for (uint32_t i = 0; i < launch->tree.count; i++)
        if (launch->tree.members[i].phase == PHASE_LEAVING && launch->tree.members[i].teardown_tries < tries)
            tries = launch->tree.members[i].teardown_tries;
    if (tries != UINT32_MAX)
        return tries < TRIES_QUICK ? WAIT_QUICK_MS : WAIT_SLOW_MS;
    return sooner_ms(sooner_ms(recording_wait_ms(launch), awake_wait_ms()),
                     terminal_wants_time() ? TERMINAL_WAIT_MS : -1);
}

/* fds to wait for: signals, who waits in front of us, the relay's, and of each member channel, pidfd, pager. */
static nfds_t list_fds(const struct launch *launch, struct pollfd *fds, int signals)
{
    nfds_t n = 0;
    fds[n++] = (struct pollfd){signals, POLLIN, 0};
    fds[n++] = (struct pollfd){detach_fd(), 0, 0};
    relay_list(&fds[n]);
    n += RELAY_FDS;
    for (uint32_t i = 0; i < launch->tree.count; i++) {
        const struct member *member = &launch->tree.members[i];
        fds[n++] = (struct pollfd){member->channel, POLLIN, 0};
        fds[n++] = (struct pollfd){i == 0 || member->ended ? -1 : member->pidfd, POLLIN, 0};
        fds[n++] = (struct pollfd){member->pager_fd, POLLIN, 0};
    }
    return n;
}

static void step(struct launch *launch, struct pollfd *fds, int signals)
{
    nfds_t count = list_fds(launch, fds, signals);
    if (poll(fds, count, poll_timeout_ms(launch)) < 0 && errno != EINTR)
        die("cannot wait for the restored process: %s", strerror(errno));
    messages_drain(launch);
    read_signals(launch, signals);
    reap(launch);
    relay_step(&fds[2]);
    terminal_settle(launch);
    look_at_members(launch);
    if (recording_wait_ms(launch) == 0)
        recording_finish(launch);
    if (awake_wait_ms() == 0)
        awake_end();
    if (launch->phase == PHASE_RESTORING && fds[1].revents != 0)
        quit(EXIT_OWN_FAILURE);
    for (uint32_t i = 0; i < launch->tree.count && launch->phase == PHASE_RUNNING; i++)
        if (launch->tree.members[i].phase == PHASE_LEAVING)
            try_teardown(launch, &launch->tree.members[i]);
}

static int exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int supervise(struct launch *launch)
{
    int signals = signals_fd();
    struct tree *tree = &launch->tree;
    struct pollfd *fds = calloc(2 + RELAY_FDS + 3 * (size_t)tree->count, sizeof(*fds));
    if (fds == NULL)
        die("no memory for %u processes", tree->count);
    while (!finished(launch))
        step(launch, fds, signals);
    free(fds);
    recording_finish(launch);
    terminal_take();
    if (tree_root(tree)->ended)
        tree_end_init(tree);
    if (launch->options.detach)
        return 0;
    int code = exit_code(tree->root_status);
    if (launch->options.json)
        report_json(STDERR_FILENO, launch->options.name, tree_root(tree)->pid, launch->resume_ms, code);
    return code;
}
