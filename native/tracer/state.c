/* SPDX-License-Identifier: Apache-2.0
 *
 * What ptrace(2) shows of a stopped thread.
 */
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>
#include "tracer.h"

/* linux/ptrace.h of Linux 6.4; Debian 12's is older. */
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

static_assert(sizeof(struct tr_regs) == sizeof(struct user_regs_struct), "the kernel's layout");
static_assert(offsetof(struct tr_regs, rip) == offsetof(struct user_regs_struct, rip), "the kernel's layout");
static_assert(offsetof(struct tr_regs, gs) == offsetof(struct user_regs_struct, gs), "the kernel's layout");
static_assert(sizeof(struct tr_rseq) == sizeof(struct __ptrace_rseq_configuration), "the kernel's layout");

/* A task in 32-bit mode gives the shorter register set: ENOEXEC. */
int tr_get_regs(int32_t tid, struct tr_regs *regs, struct tr_error *err)
{
    struct iovec iov = {regs, sizeof(*regs)};

    if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov) != 0)
        return tr_fail(err, "PTRACE_GETREGSET", (uint64_t)tid);
    if (iov.iov_len != sizeof(*regs)) {
        errno = ENOEXEC;
        return tr_fail(err, "PTRACE_GETREGSET", (uint64_t)tid);
    }
    return 0;
}

int tr_set_regs(int32_t tid, const struct tr_regs *regs, struct tr_error *err)
{
    struct iovec iov = {(void *)regs, sizeof(*regs)};

    if (ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov) != 0)
        return tr_fail(err, "PTRACE_SETREGSET", (uint64_t)tid);
    return 0;
}

/* *bytes: room in the buffer, then what the kernel wrote, in XSAVE's standard (uncompacted) format. */
int tr_get_xstate(int32_t tid, void *buffer, uint64_t *bytes, struct tr_error *err)
{
    struct iovec iov = {buffer, *bytes};

    if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov) != 0)
        return tr_fail(err, "PTRACE_GETREGSET(NT_X86_XSTATE)", (uint64_t)tid);
    *bytes = iov.iov_len;
    return 0;
}

/* Inside ppoll, sigsuspend and the like this is the mask that the thread will have afterwards. */
int tr_get_sigmask(int32_t tid, uint64_t *mask, struct tr_error *err)
{
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(*mask), mask) != 0)
        return tr_fail(err, "PTRACE_GETSIGMASK", (uint64_t)tid);
    return 0;
}

int tr_set_sigmask(int32_t tid, uint64_t mask, struct tr_error *err)
{
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) != 0)
        return tr_fail(err, "PTRACE_SETSIGMASK", (uint64_t)tid);
    return 0;
}

/* Copies up to `room` siginfo_t of the thread's queue, or of the process's; *count is 0 at the end. */
int tr_peek_signals(int32_t tid, int32_t shared, uint64_t first, void *infos, int32_t room, int32_t *count,
                    struct tr_error *err)
{
    struct __ptrace_peeksiginfo_args args = {
        .off = first,
        .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
        .nr = room,
    };
    long got = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos);

    if (got < 0)
        return tr_fail(err, "PTRACE_PEEKSIGINFO", (uint64_t)tid);
    *count = (int32_t)got;
    return 0;
}

/* A kernel without rseq answers EIO: none registered. */
int tr_get_rseq(int32_t tid, struct tr_rseq *rseq, struct tr_error *err)
{
    *rseq = (struct tr_rseq){0};
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(*rseq), rseq) < 0 && errno != EIO)
        return tr_fail(err, "PTRACE_GET_RSEQ_CONFIGURATION", (uint64_t)tid);
    return 0;
}

int tr_get_robust_list(int32_t tid, uint64_t *head, uint64_t *bytes, struct tr_error *err)
{
    void *found = NULL;
    size_t length = 0;

    if (syscall(SYS_get_robust_list, tid, &found, &length) != 0)
        return tr_fail(err, "get_robust_list", (uint64_t)tid);
    *head = (uint64_t)found;
    *bytes = length;
    return 0;
}

/* Syscall User Dispatch turns syscalls into SIGSYS, injected ones too. Kernels before 6.4 cannot tell: 0. */
int tr_get_dispatch(int32_t tid, uint64_t *mode, struct tr_error *err)
{
    struct {
        uint64_t mode, selector, offset, len;
    } config = {0};

    if (ptrace(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(config), &config) != 0 && errno != EIO)
        return tr_fail(err, "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG", (uint64_t)tid);
    *mode = config.mode;
    return 0;
}

/* The index counts from the oldest filter; *count is 0 behind the last, and for a thread without any or in strict
 * mode. The kernel does not ask how much room there is: no program is longer than BPF_MAXINSNS. */
int tr_seccomp_filter(int32_t tid, uint64_t index, void *insns, int32_t *count, uint64_t *flags,
                      struct tr_error *err)
{
    struct {
        uint64_t filter_off, flags;
    } metadata = {.filter_off = index};
    long got = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, insns);

    *count = 0;
    if (got < 0 && (errno == ENOENT || errno == EINVAL))
        return 0;
    if (got < 0)
        return tr_fail(err, "PTRACE_SECCOMP_GET_FILTER", (uint64_t)tid);
    if (ptrace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof(metadata), &metadata) < 0)
        return tr_fail(err, "PTRACE_SECCOMP_GET_METADATA", (uint64_t)tid);
    *count = (int32_t)got;
    *flags = metadata.flags;
    return 0;
}
