/* SPDX-License-Identifier: Apache-2.0 */
#include "terminal.h"

#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "modes.h"
#include "proc.h"
#include "relay.h"
#include "say.h"
#include "signals.h"

static const int forwarded[] = {SIGHUP,  SIGINT,   SIGQUIT, SIGTERM, SIGUSR1,   SIGUSR2, SIGALRM, SIGCONT,
                                SIGTSTP, SIGWINCH, SIGURG,  SIGIO,   SIGVTALRM, SIGPROF, SIGPWR};

#define SIZE_LATEST_NS UINT64_C(1000000000)

static bool size_due;

/* What the tree has of the launcher's terminal. */
static struct {
    bool given;
    pid_t group;        /* in the foreground, while or when it last had it */
    bool known;         /* `modes` are those that the tree has set */
    struct modes modes; /* when it last had it */
    struct modes own;   /* what they were before */
} lent;

static const struct wr_terminal *described(const struct launch *launch)
{
    uint32_t offset = image_header(&launch->image)->terminal_offset;
    return offset == 0 ? NULL : (const struct wr_terminal *)(launch->image.base + offset);
}

void terminal_adopt(const struct launch *launch)
{
    const struct wr_terminal *terminal = described(launch);
    if (terminal == NULL || terminal->master_slot == WR_NO_SLOT)
        return;
    if (launch->options.detach)
        die("the image is a session that needs a terminal: restore it in the foreground (of tmux, screen or "
            "script, to leave it alone)");
    relay_open((int)tree_root(&launch->tree)->region.slots[terminal->master_slot], terminal);
}

/* SIGTTOU is blocked, so that tcsetpgrp from the background works (tcsetpgrp(3)). */
static void give(void)
{
    if (lent.group <= 0 || tcgetpgrp(STDIN_FILENO) != getpgrp())
        return;
    if (lent.known && modes_get(STDIN_FILENO, &lent.own))
        modes_set(STDIN_FILENO, &lent.modes);
    lent.given = lent.group == getpgrp() || tcsetpgrp(STDIN_FILENO, lent.group) == 0;
}

static void tell_size(const struct launch *launch)
{
    struct winsize now;
    const struct wr_terminal *terminal = described(launch);
    if (relay_active()) {
        relay_settle();
        return;
    }
    if (!lent.given || ioctl(STDIN_FILENO, TIOCGWINSZ, &now) != 0 ||
        memcmp(&now, terminal->size, sizeof(now)) == 0)
        return;
    /* Each of the group once: the launcher may be of it. */
    for (uint32_t i = 0; i < launch->tree.count; i++)
        if (getpgid(launch->tree.members[i].pid) == lent.group)
            syscall(SYS_pidfd_send_signal, launch->tree.members[i].pidfd, SIGWINCH, NULL, 0);
}

/* Who is blocked in a system call has a number there; "running", and -1 in a page fault, are no such. */
static bool is_back(const struct launch *launch, uint32_t index)
{
    const struct member *member = &launch->tree.members[index];
    char text[128];
    return __atomic_load_n(&member->region.ctl->left, __ATOMIC_ACQUIRE) >=
               image_process(&launch->image, index)->threads &&
           proc_read(member->pid, "syscall", text, sizeof(text)) > 0 && text[0] >= '0' && text[0] <= '9';
}

/* A signal that came before the system call which the checkpoint interrupted had begun again would not end it, as it ends
 * one that sleeps: a shell would not look at the new size before the next key. */
void terminal_settle(const struct launch *launch)
{
    if (!size_due || launch->phase == PHASE_RESTORING)
        return;
    if (!is_back(launch, described(launch)->foreground) && now_ns() - launch->resumed_ns < SIZE_LATEST_NS)
        return;
    size_due = false;
    tell_size(launch);
}

bool terminal_wants_time(void)
{
    return size_due || relay_wants_time();
}

void terminal_give(const struct launch *launch)
{
    const struct wr_terminal *terminal = described(launch);
    size_due = terminal != NULL;
    if (relay_active()) {
        relay_begin();
        return;
    }
    lent.group = getpgid(launch->tree.members[terminal == NULL ? 0 : terminal->foreground].pid);
    if (terminal != NULL) {
        lent.known = true;
        memcpy(&lent.modes, terminal->modes, sizeof(lent.modes));
    }
    give();
}

void terminal_take(void)
{
    relay_end();
    if (!lent.given)
        return;
    if (lent.known && modes_get(STDIN_FILENO, &lent.modes))
        modes_set(STDIN_FILENO, &lent.own);
    if (lent.group != getpgrp())
        tcsetpgrp(STDIN_FILENO, getpgrp());
    lent.given = false;
}

static void continue_target(const struct tree *tree)
{
    /* All whom the terminal's driver has stopped with it; not the launcher itself. */
    bool others = lent.group > 0 && lent.group != getpgrp();
    if (others)
        kill(-lent.group, SIGCONT);
    if (!others || getpgid(tree_root(tree)->pid) != lent.group)
        syscall(SYS_pidfd_send_signal, tree_root(tree)->pidfd, SIGCONT, NULL, 0);
}

/* A shell gives a job that runs in the background the terminal without a word: then a stop for the want of it is over. */
static bool has_got_it(int signal)
{
    return (signal == SIGTTIN || signal == SIGTTOU) && !lent.given && tcgetpgrp(STDIN_FILENO) == getpgrp();
}

void terminal_follow_stop(const struct tree *tree, int signal)
{
    bool wants_it = signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
    if (relay_active() || tcgetpgrp(STDIN_FILENO) < 0 || (!wants_it && !lent.given))
        return;
    if (!has_got_it(signal)) {
        terminal_take();
        signals_stop_self();
    }
    give();
    continue_target(tree);
}

static bool target_has_it(const struct tree *tree, const struct signalfd_siginfo *info)
{
    if ((pid_t)info->ssi_pid == tree_root(tree)->pid)
        return true;
    /* The terminal's driver signals the whole foreground group, with SI_KERNEL (kill_pgrp, SEND_SIG_PRIV). */
    return info->ssi_code == SI_KERNEL && getpgid(tree_root(tree)->pid) == getpgrp();
}

void terminal_forward(const struct tree *tree, const struct signalfd_siginfo *info)
{
    int signal = (int)info->ssi_signo;
    bool known = signal >= SIGRTMIN && signal <= SIGRTMAX;
    for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
        known = known || forwarded[i] == signal;
    if (known && !target_has_it(tree, info) && !relay_signal(signal))
        syscall(SYS_pidfd_send_signal, tree_root(tree)->pidfd, signal, NULL, 0);
}
