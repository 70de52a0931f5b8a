/* SPDX-License-Identifier: Apache-2.0
 *
 * The tracer: what restorer does to a live process by ptrace(2) and its kin. Every function that takes a
 * tr_error returns 0 or -1; pids and tids are those of our PID namespace. ptrace knows one tracer thread:
 * all calls about a tracee come from the thread that seized it.
 */
#ifndef RESTORER_TRACER_H
#define RESTORER_TRACER_H
#include <stddef.h>
#include <stdint.h>
#include "error.h"

/* PTRACE_O_TRACESYSGOOD */
#define SYSCALL_STOP (SIGTRAP | 0x80)

/* The kernel's struct user_regs_struct. */
struct tr_regs {
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    uint64_t orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

enum tr_stop_kind {
    TR_STOPPED = 0,    /* by PTRACE_INTERRUPT, outside a group-stop */
    TR_GROUP_STOP = 1, /* the whole process was stopped by a stop signal */
    TR_GONE = 2,       /* the thread has ended, and has been reaped where that was ours to do */
};

struct tr_stop {
    int32_t kind;   /* enum tr_stop_kind */
    int32_t signal; /* of a group-stop; else 0 */
    int32_t again;  /* the stop alone has ended a call, which the thread is set to make again */
};

/* A bit for each syscall. */
#define TR_CALLS_WORDS 8

struct tr_rseq {
    uint64_t addr; /* 0: none registered */
    uint32_t size;
    uint32_t signature;
    uint32_t flags;
    uint32_t pad;
};

struct tr_remote {
    uint64_t addr; /* in the target */
    uint64_t bytes;
};

/* Words errno into err; always -1. */
int tr_fail(struct tr_error *err, const char *call, uint64_t object);

/* stop.c */
int tr_seize(int32_t tid, struct tr_error *err);
int tr_interrupt(int32_t tid, struct tr_error *err);
int tr_wait_stop(int32_t tid, uint32_t timeout_ms, const uint64_t *never_restarted, struct tr_stop *stop,
                 struct tr_error *err);
int tr_detach(int32_t tid, struct tr_error *err);
int tr_suspend_seccomp(int32_t tid, struct tr_error *err);
int tr_reap(int32_t tid, uint32_t timeout_ms, struct tr_error *err);

/* state.c */
int tr_get_regs(int32_t tid, struct tr_regs *regs, struct tr_error *err);
int tr_set_regs(int32_t tid, const struct tr_regs *regs, struct tr_error *err);
int tr_get_xstate(int32_t tid, void *buffer, uint64_t *bytes, struct tr_error *err);
int tr_get_sigmask(int32_t tid, uint64_t *mask, struct tr_error *err);
int tr_set_sigmask(int32_t tid, uint64_t mask, struct tr_error *err);
int tr_peek_signals(int32_t tid, int32_t shared, uint64_t first, void *infos, int32_t room, int32_t *count,
                    struct tr_error *err);
int tr_get_rseq(int32_t tid, struct tr_rseq *rseq, struct tr_error *err);
int tr_get_robust_list(int32_t tid, uint64_t *head, uint64_t *bytes, struct tr_error *err);
int tr_get_dispatch(int32_t tid, uint64_t *mode, struct tr_error *err);
int tr_seccomp_filter(int32_t tid, uint64_t index, void *insns, int32_t *count, uint64_t *flags,
                      struct tr_error *err);

/* inject.c */
struct tr_call {
    uint64_t insn;  /* address of a `syscall` instruction in the target, with `stack` of `syscall; ret` */
    uint64_t stack; /* a signal frame with which the thread finds back by itself, or 0 */
    uint64_t nr;
    uint64_t args[6];
    int64_t result;      /* out: as the kernel gave it, negative errno for an error */
    int32_t stop_signal; /* out: a group-stop that began meanwhile, or 0 */
    int32_t disturbed;   /* out: registers and mask are not the thread's own */
};
int tr_inject(int32_t tid, const struct tr_regs *regs, uint64_t sigmask, struct tr_call *call,
              struct tr_error *err);
int tr_put_back(int32_t tid, const struct tr_regs *regs, uint64_t sigmask, struct tr_call *call,
                struct tr_error *err);

/* memory.c */
int tr_read_memory(int32_t pid, int32_t mem_fd, const struct tr_remote *ranges, uint64_t count, void *buffer,
                   struct tr_error *err);
int tr_write_memory(int32_t pid, int32_t mem_fd, uint64_t addr, const void *data, uint64_t bytes,
                    struct tr_error *err);

/* misc.c: the result, or a negative errno */
int tr_kcmp(int32_t pid1, int32_t pid2, int32_t kind, uint64_t idx1, uint64_t idx2);
int tr_pidfd_getfd(int32_t pidfd, int32_t fd);

#endif
