/* SPDX-License-Identifier: Apache-2.0 */
#include "terminal.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int forwarded[] = {SIGHUP,  SIGINT,   SIGQUIT, SIGTERM, SIGUSR1,   SIGUSR2, SIGALRM, SIGCONT,
                                SIGTSTP, SIGWINCH, SIGURG,  SIGIO,   SIGVTALRM, SIGPROF, SIGPWR};

static bool given;

/* SIGTTOU is blocked, so that tcsetpgrp from the background works (tcsetpgrp(3)). */
void terminal_give(const struct tree *tree)
{
    pid_t group = getpgid(tree_root(tree)->pid);
    if (group <= 0 || group == getpgrp() || tcgetpgrp(STDIN_FILENO) != getpgrp())
        return;
    given = tcsetpgrp(STDIN_FILENO, group) == 0;
}

void terminal_take(void)
{
    if (given)
        tcsetpgrp(STDIN_FILENO, getpgrp());
    given = false;
}

void terminal_follow_stop(const struct tree *tree, int signal)
{
    bool job_control = signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
    if (!job_control || tcgetpgrp(STDIN_FILENO) < 0)
        return;
    terminal_take();
    kill(getpid(), SIGSTOP);
    terminal_give(tree);
    syscall(SYS_pidfd_send_signal, tree_root(tree)->pidfd, SIGCONT, NULL, 0);
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
    if (known && !target_has_it(tree, info))
        syscall(SYS_pidfd_send_signal, tree_root(tree)->pidfd, signal, NULL, 0);
}
