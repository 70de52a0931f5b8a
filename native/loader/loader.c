/* SPDX-License-Identifier: Apache-2.0
 *
 * The loader: a loop over the ops of one program. It knows no kind of resource and takes no decision that
 * Python could have taken; see wire.h for what each op does.
 */
#include <linux/futex.h>
#include <linux/sched.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "loader.h"
#include "raw.h"

#define EINVAL_WIRE 22
#define EXIT_FAILED 125
#define MSG_QUIETLY 0x4040 /* MSG_DONTWAIT | MSG_NOSIGNAL */

struct task {
    const struct wr_runtime *rt;
    const uint8_t *image;
    const struct wr_program *program;
    uint64_t *slots;
    struct wr_ctl *ctl;
    uint32_t index;
};

static uint64_t resolve(const struct task *task, const struct wr_arg *arg)
{
    switch (arg->kind) {
    case WR_SLOT:
        return task->slots[arg->slot] + arg->value;
    case WR_DATA:
        return task->rt->image + arg->value;
    case WR_CTL:
        return task->rt->ctl + arg->value;
    case WR_TREE:
        return task->rt->tree + arg->value;
    default:
        return arg->value;
    }
}

static void store(uint64_t addr, uint64_t value, uint64_t bytes)
{
    __builtin_memcpy((void *)addr, &value, bytes <= 8 ? bytes : 8);
}

static uint64_t load(uint64_t addr, uint64_t bytes)
{
    uint64_t value = 0;

    __builtin_memcpy(&value, (const void *)addr, bytes <= 8 ? bytes : 8);
    return value;
}

static int same(const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

/* Shared futexes throughout: ctl is MAP_SHARED between the launcher's mm and the restored one. */
static void add(uint32_t *word, uint32_t n)
{
    __atomic_add_fetch(word, n, __ATOMIC_SEQ_CST);
    raw3(SYS_futex, word, FUTEX_WAKE, INT32_MAX);
}

static void wait_for(uint32_t *word, uint32_t least)
{
    for (;;) {
        uint32_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);

        if (seen >= least)
            return;
        raw4(SYS_futex, word, FUTEX_WAIT, seen, 0);
    }
}

/* The child runs on the stack of the clone_args, where nothing of this frame exists: what it needs travels in
 * registers that the kernel copies. */
static long spawn(uint64_t clone_args, uint64_t bytes, const struct wr_runtime *rt, uint32_t program)
{
    long result;
    register const struct wr_runtime *rt_reg __asm__("r12") = rt;
    register uint64_t program_reg __asm__("r13") = program;
    register uint64_t start_reg __asm__("r14") = rt->start;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r12, %%rdi\n\t"
                     "mov %%r13d, %%esi\n\t"
                     "call *%%r14\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(clone_args), "S"(bytes), "r"(rt_reg), "r"(program_reg),
                       "r"(start_reg)
                     : "rcx", "r11", "memory");
    return result;
}

/* The child has a copy of every region, its own among them, and goes on in that one: the first thing a process does
 * with its memory is to unmap all the others. */
static long fork_process(const struct task *task, uint64_t clone_args, uint64_t bytes, uint32_t program,
                         uint32_t process)
{
    const struct wr_runtime *rt = (const struct wr_runtime *)((const uint64_t *)task->rt->runtimes)[process];
    const struct wr_header *header = (const struct wr_header *)rt->image;
    const struct wr_program *programs = (const struct wr_program *)(rt->image + header->programs_offset);
    struct clone_args *args = (struct clone_args *)clone_args;

    /* The kernel adds the two up; no page below is touched by it. */
    args->stack = rt->image + programs[program].stack_offset - WR_PAGE_BYTES;
    args->stack_size = WR_PAGE_BYTES;
    return spawn(clone_args, bytes, rt, program);
}

/* rt_sigreturn takes the frame to begin 8 bytes below rsp, with the return address that a handler's `ret` would
 * have popped (arch/x86/kernel/signal_64.c): rsp is thus the address of the ucontext itself. */
static _Noreturn void enter(uint64_t ucontext)
{
    __asm__ volatile("mov %0, %%rsp\n\t"
                     "mov %1, %%eax\n\t"
                     "syscall\n\t"
                     "ud2"
                     :
                     : "r"(ucontext), "i"(SYS_rt_sigreturn)
                     : "memory");
    __builtin_unreachable();
}

static void fail(const struct task *task, uint32_t op, int32_t error, int64_t result)
{
    const struct wr_message message = {.kind = WR_MESSAGE_FAILED};
    struct wr_failure *failure = &task->ctl->failure;
    uint32_t unclaimed = 0;

    if (!__atomic_compare_exchange_n(&failure->claimed, &unclaimed, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return;
    failure->program = task->index;
    failure->op = op;
    failure->error = error;
    failure->result = result;
    __atomic_store_n(&failure->claimed, 2, __ATOMIC_SEQ_CST);
    /* The launcher is the parent of the root only. Where the channel is closed, or is the launcher's own, nobody needs
     * to be told. */
    raw6(SYS_sendto, (long)task->slots[WR_SLOT_CHANNEL], (long)&message, sizeof(message), MSG_QUIETLY, 0, 0);
}

static int expected(const struct wr_op *op, long result)
{
    switch (op->expect) {
    case WR_EXPECT_EXACT:
        return result == op->expected;
    case WR_EXPECT_ANY:
        return 1;
    case WR_EXPECT_OK_OR:
        return !IS_ERROR(result) || result == op->expected;
    default:
        return !IS_ERROR(result);
    }
}

/* What one op computes; checks give 0 or -EINVAL. */
static long perform(const struct task *task, const struct wr_op *op, const uint64_t *a)
{
    switch (op->kind) {
    case WR_OP_SYSCALL:
        return raw6(op->flags & WR_NR_FROM_SLOT ? (long)task->slots[op->nr] : (long)op->nr, (long)a[0],
                    (long)a[1], (long)a[2], (long)a[3], (long)a[4], (long)a[5]);
    case WR_OP_STORE:
        store(a[0], a[1], a[2]);
        return 0;
    case WR_OP_LOAD:
        return (long)load(a[0], a[1]);
    case WR_OP_CHECK_EQ:
        return a[0] == a[1] ? 0 : -EINVAL_WIRE;
    case WR_OP_CHECK_GE:
        return a[0] >= a[1] ? 0 : -EINVAL_WIRE;
    case WR_OP_CHECK_MEM:
        return same((const uint8_t *)a[0], (const uint8_t *)a[1], a[2]) ? 0 : -EINVAL_WIRE;
    case WR_OP_ADD:
        add((uint32_t *)a[0], (uint32_t)a[1]);
        return 0;
    case WR_OP_WAIT:
        wait_for((uint32_t *)a[0], (uint32_t)a[1]);
        return 0;
    case WR_OP_SPAWN:
        return spawn(a[0], a[1], task->rt, (uint32_t)a[2]);
    case WR_OP_FORK:
        return fork_process(task, a[0], a[1], (uint32_t)a[2], (uint32_t)a[3]);
    case WR_OP_ENTER:
        enter(a[0]);
    case WR_OP_PAGER:
        pager_main(task->rt, (uint32_t)a[0]);
    case WR_OP_AHEAD:
        ahead_main(task->rt);
    case WR_OP_STORM:
        storm_main(task->rt);
    case WR_OP_SKIP_EQ:
        return a[0] == a[1] ? (long)a[2] : 0;
    case WR_OP_EXIT:
        raw1(SYS_exit_group, a[0]);
    }
    return -EINVAL_WIRE;
}

static int is_check(const struct wr_op *op)
{
    return op->kind == WR_OP_CHECK_EQ || op->kind == WR_OP_CHECK_GE || op->kind == WR_OP_CHECK_MEM;
}

/* How many of the ops that follow are left out, or -1. */
static int64_t step(const struct task *task, uint32_t index, const struct wr_op *op)
{
    uint64_t args[WR_ARGS];
    long result;

    if ((op->flags & WR_FILE_CHECK) && is_check(op) && !task->rt->file_checks)
        return 0;
    for (int i = 0; i < WR_ARGS; i++)
        args[i] = resolve(task, &op->args[i]);
    result = perform(task, op, args);
    if (op->result != WR_NO_SLOT)
        task->slots[op->result] = (uint64_t)result;
    if (op->kind == WR_OP_LOAD || expected(op, result))
        return op->kind == WR_OP_SKIP_EQ ? result : 0;
    fail(task, index, IS_ERROR(result) && !is_check(op) ? (int32_t)-result : 0, result);
    return -1;
}

int loader_run(const struct wr_runtime *rt, uint32_t program)
{
    const struct wr_header *header = (const struct wr_header *)rt->image;
    const struct wr_program *programs = (const struct wr_program *)(rt->image + header->programs_offset);
    const struct task task = {
        .rt = rt,
        .image = (const uint8_t *)rt->image,
        .program = &programs[program],
        .slots = (uint64_t *)rt->slots,
        .ctl = (struct wr_ctl *)rt->ctl,
        .index = program,
    };
    const struct wr_op *ops = (const struct wr_op *)(task.image + task.program->ops_offset);

    for (uint32_t i = 0; i < task.program->ops_count; i++) {
        int64_t left_out = step(&task, i, &ops[i]);

        if (left_out < 0)
            return -1;
        i += (uint32_t)left_out;
    }
    return 0;
}

/* A program that ends without ENTER, PAGER or EXIT leaves its task nowhere to go: that is a failure too. */
void loader_start(const struct wr_runtime *rt, uint32_t program)
{
    (void)loader_run(rt, program);
    for (;;)
        raw1(SYS_exit_group, EXIT_FAILED);
}
