/* SPDX-License-Identifier: Apache-2.0
 *
 * Stopping threads and letting them go.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include "tracer.h"

#define EVENT_OF(status)    ((status) >> 16)
#define EVENT_OF_CODE(code) ((code) >> 8)

int tr_fail(struct tr_error *err, const char *call, uint64_t object)
{
    err->code = errno;
    err->object = object;
    snprintf(err->call, sizeof(err->call), "%s", call);
    return -1;
}

/* TRACESYSGOOD tells the syscall stops of an injection from a SIGTRAP that is the program's own. No
 * EXITKILL: when we die, the target has to live on. */
int tr_seize(int32_t tid, struct tr_error *err)
{
    if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) != 0)
        return tr_fail(err, "PTRACE_SEIZE", (uint64_t)tid);
    return 0;
}

/* Until it is let go, no filter meets what the stopped thread is made to do. */
int tr_suspend_seccomp(int32_t tid, struct tr_error *err)
{
    if (ptrace(PTRACE_SETOPTIONS, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP) != 0)
        return tr_fail(err, "PTRACE_O_SUSPEND_SECCOMP", (uint64_t)tid);
    return 0;
}

int tr_interrupt(int32_t tid, struct tr_error *err)
{
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) != 0)
        return tr_fail(err, "PTRACE_INTERRUPT", (uint64_t)tid);
    return 0;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* waitpid with a deadline: a thread in an uninterruptible sleep (a vfork parent, a hung network file
 * system) takes no interrupt, and a blocking wait would hang with it. 0 and ETIMEDOUT when it passes. */
static pid_t wait_until(pid_t tid, int *status, uint64_t deadline_ns)
{
    long pause_ns = 20000;

    for (;;) {
        pid_t got = waitpid(tid, status, __WALL | WNOHANG);
        struct timespec pause = {0, pause_ns};

        if (got != 0 && !(got < 0 && errno == EINTR))
            return got;
        if (now_ns() > deadline_ns) {
            errno = ETIMEDOUT;
            return 0;
        }
        nanosleep(&pause, NULL);
        pause_ns = pause_ns < 1000000 ? pause_ns * 2 : pause_ns;
    }
}

/* A signal that was on its way when the interrupt came is delivered as if we were not here: the kernel
 * keeps its siginfo when the signal is passed on unchanged (ptrace_signal), so nothing has to be held, put
 * into the image or queued again. That stop has eaten the interrupt (ptrace_stop clears JOBCTL_TRAP_STOP),
 * so it is asked for anew, before the thread goes on: the trap is taken ahead of any further signal and
 * before the first instruction of a handler. */
static int pass_on(pid_t tid, int signal_number, struct tr_error *err)
{
    if (tr_interrupt(tid, err) != 0)
        return -1;
    if (ptrace(PTRACE_CONT, tid, 0, signal_number) != 0)
        return tr_fail(err, "PTRACE_CONT", (uint64_t)tid);
    return 0;
}

static void fill_stop(struct tr_stop *stop, int status)
{
    int number = WSTOPSIG(status) & ~0x80;

    stop->kind = number == SIGTRAP ? TR_STOPPED : TR_GROUP_STOP;
    stop->signal = number == SIGTRAP ? 0 : number;
}

static int is_cut_short(int32_t tid, const struct tr_regs *regs, const uint64_t *never_restarted)
{
    uint64_t nr = regs->orig_rax;
    uint8_t insn[2] = {0};
    struct iovec to = {insn, sizeof(insn)}, from = {(void *)(regs->rip - sizeof(insn)), sizeof(insn)};

    if ((int64_t)regs->rax != -EINTR || nr >= 64 * TR_CALLS_WORDS ||
        !(never_restarted[nr / 64] >> nr % 64 & 1))
        return 0;
    /* Through `int 0x80` the same numbers are other calls. */
    return process_vm_readv(tid, &to, 1, &from, 1, 0) == sizeof(insn) && insn[0] == 0x0f && insn[1] == 0x05;
}

/* How many signals are pending, of two: -1 on error. */
static int signals_pending(int32_t tid, struct tr_error *err)
{
    siginfo_t info;
    int32_t own = 0, shared = 0;

    if (tr_peek_signals(tid, 0, 0, &info, 1, &own, err) != 0 ||
        tr_peek_signals(tid, 1, 0, &info, 1, &shared, err) != 0)
        return -1;
    return own + shared;
}

/* Some calls the kernel never makes again, but lets return EINTR (signal(7), "Interruption of system calls ... by stop
 * signals"). The thread is set to make such a call again before anything else is asked: if we die later, it does not
 * notice that we were there. A signal that is pending may be another reason for EINTR: thread.py looks into that. */
static int make_again(int32_t tid, const uint64_t *never_restarted, struct tr_stop *stop,
                      struct tr_error *err)
{
    struct tr_regs regs;
    int pending;

    if (tr_get_regs(tid, &regs, err) != 0)
        return err->code == ENOEXEC ? 0 : -1;
    if (!is_cut_short(tid, &regs, never_restarted) || (pending = signals_pending(tid, err)) > 0)
        return 0;
    regs.rip -= 2;
    regs.rax = regs.orig_rax;
    regs.orig_rax = (uint64_t)-1;
    if (pending < 0 || tr_set_regs(tid, &regs, err) != 0)
        return -1;
    stop->again = 1;
    return 0;
}

/* Waits for the stop that an earlier tr_interrupt asked for. `never_restarted` has TR_CALLS_WORDS. */
int tr_wait_stop(int32_t tid, uint32_t timeout_ms, const uint64_t *never_restarted, struct tr_stop *stop,
                 struct tr_error *err)
{
    uint64_t deadline_ns = now_ns() + (uint64_t)timeout_ms * 1000000u;

    stop->signal = 0;
    stop->again = 0;
    for (;;) {
        int status = 0;
        pid_t got = wait_until(tid, &status, deadline_ns);

        if (got <= 0)
            return tr_fail(err, "PTRACE_INTERRUPT", (uint64_t)tid);
        if (!WIFSTOPPED(status)) {
            stop->kind = TR_GONE;
            return 0;
        }
        /* The latter: an injected syscall that failed half-way. */
        if (EVENT_OF(status) == PTRACE_EVENT_STOP || WSTOPSIG(status) == SYSCALL_STOP) {
            fill_stop(stop, status);
            return WSTOPSIG(status) == SIGTRAP ? make_again(tid, never_restarted, stop, err) : 0;
        }
        if (pass_on(tid, EVENT_OF(status) ? 0 : WSTOPSIG(status), err) != 0) {
            /* Killed between two stops: the next wait says so. */
            if (err->code != ESRCH)
                return -1;
        }
    }
}

/* The signal that a thread has stopped to take, else 0. Stops for a trap say so in si_code (ptrace(2), "PTRACE_GETSIGINFO
 * disambiguation"). */
static int signal_in_hand(int32_t tid)
{
    siginfo_t info;

    if (ptrace(PTRACE_GETSIGINFO, tid, 0, &info) != 0)
        return 0;
    if (info.si_code == SYSCALL_STOP || EVENT_OF_CODE(info.si_code) == PTRACE_EVENT_STOP)
        return 0;
    return info.si_signo;
}

/* The kernel itself puts a thread back into a group-stop that is in effect (__ptrace_unlink sets
 * JOBCTL_STOP_PENDING again), drops traps still pending and has the interrupted syscall restarted. But the signal of a
 * stop that nobody has waited for, as of those whom a failed freeze leaves behind, is dropped unless it is passed on. */
int tr_detach(int32_t tid, struct tr_error *err)
{
    if (ptrace(PTRACE_DETACH, tid, 0, signal_in_hand(tid)) != 0)
        return tr_fail(err, "PTRACE_DETACH", (uint64_t)tid);
    return 0;
}

/* Waits until a killed thread is gone. One that somebody else has reaped is gone, too. */
int tr_reap(int32_t tid, uint32_t timeout_ms, struct tr_error *err)
{
    uint64_t deadline_ns = now_ns() + (uint64_t)timeout_ms * 1000000u;

    for (;;) {
        int status = 0;
        pid_t got = wait_until(tid, &status, deadline_ns);

        if (got < 0 && errno == ECHILD)
            return 0;
        if (got <= 0)
            return tr_fail(err, "waitpid", (uint64_t)tid);
        if (!WIFSTOPPED(status))
            return 0;
    }
}
