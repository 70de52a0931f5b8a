/* SPDX-License-Identifier: Apache-2.0
 *
 * One syscall made by a stopped thread of the target, from a `syscall` instruction it already has.
 */
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include "tracer.h"

static pid_t wait_blocking(pid_t tid, int *status)
{
    pid_t got;

    do
        got = waitpid(tid, status, __WALL);
    while (got < 0 && errno == EINTR);
    return got;
}

static int is_group_stop(int status)
{
    return status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP;
}

/* Runs to the next syscall stop. On the way lie at most: a trap still pending from tr_interrupt, one that a
 * SIGCONT sent meanwhile has set (JOBCTL_TRAP_NOTIFY), and SIGSTOP, which no mask holds back. SIGSTOP is
 * delivered, so that it is not lost: the process counts as stopped from then on (the kernel takes this
 * thread, too, into the stop when it is detached), and this thread is led on past it. */
static int run_to_syscall_stop(pid_t tid, struct tr_call *call, struct tr_error *err)
{
    int deliver = 0;

    for (;;) {
        int status = 0;

        if (ptrace(PTRACE_SYSCALL, tid, 0, deliver) != 0 || wait_blocking(tid, &status) < 0)
            return tr_fail(err, "PTRACE_SYSCALL", (uint64_t)tid);
        if (!WIFSTOPPED(status)) {
            errno = ESRCH;
            return tr_fail(err, "PTRACE_SYSCALL", (uint64_t)tid);
        }
        if (WSTOPSIG(status) == SYSCALL_STOP)
            return 0;
        if (is_group_stop(status))
            call->stop_signal = WSTOPSIG(status);
        deliver = status >> 16 ? 0 : WSTOPSIG(status);
    }
}

/* orig_rax = -1: the kernel must not take -ERESTART* in rax for a syscall to be restarted here. */
static struct tr_regs regs_of_call(const struct tr_regs *regs, const struct tr_call *call)
{
    struct tr_regs now = *regs;

    now.rip = call->insn;
    now.rsp = call->stack ? call->stack : regs->rsp;
    now.rax = call->nr;
    now.orig_rax = (uint64_t)-1;
    now.rdi = call->args[0];
    now.rsi = call->args[1];
    now.rdx = call->args[2];
    now.r10 = call->args[3];
    now.r8 = call->args[4];
    now.r9 = call->args[5];
    return now;
}

/* All signals are blocked meanwhile, so that they stay pending. */
static int run_call(pid_t tid, const struct tr_regs *regs, struct tr_call *call, struct tr_error *err)
{
    struct tr_regs now = regs_of_call(regs, call);

    if (tr_set_regs(tid, &now, err) != 0)
        return -1;
    call->disturbed = 1;
    if (tr_set_sigmask(tid, ~(uint64_t)0, err) != 0 || run_to_syscall_stop(tid, call, err) != 0 ||
        run_to_syscall_stop(tid, call, err) != 0 || tr_get_regs(tid, &now, err) != 0)
        return -1;
    call->result = (int64_t)now.rax;
    return 0;
}

/* Leaves the thread in the stop after the syscall, with `regs` and `sigmask` in place. If it is detached
 * there, the kernel looks at rax and orig_rax as it would have at the first stop: PTRACE_DETACH sets
 * TIF_SIGPENDING, and arch_do_signal_or_restart comes after the exit stop.
 *
 * We may die at any moment, and then the thread runs on from where it is. With call->stack, whatever is not put
 * back yet is loaded from the signal frame there, by the code after the `syscall` (lifeline.py). So the
 * registers come first on the way in, and last on the way out: at no time does it have its own registers
 * and another mask. A thread that failed half-way may be about to enter the syscall, where its registers
 * would be taken for another call: it stays `disturbed`, and goes the same way when it is let go. */
int tr_inject(int32_t tid, const struct tr_regs *regs, uint64_t sigmask, struct tr_call *call,
              struct tr_error *err)
{
    call->stop_signal = 0;
    call->disturbed = 0;
    if (run_call(tid, regs, call, err) != 0)
        return -1;
    return tr_put_back(tid, regs, sigmask, call, err);
}

int tr_put_back(int32_t tid, const struct tr_regs *regs, uint64_t sigmask, struct tr_call *call,
                struct tr_error *err)
{
    if (tr_set_sigmask(tid, sigmask, err) != 0 || tr_set_regs(tid, regs, err) != 0)
        return -1;
    call->disturbed = 0;
    return 0;
}
