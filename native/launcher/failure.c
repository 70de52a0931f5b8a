/* SPDX-License-Identifier: Apache-2.0 */
#include "failure.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "say.h"
#include "syscalls.h"

enum { RECORD_WRITTEN = 2 };

static const char *op_word(const struct region *region, const struct wr_op *op)
{
    static const char *const words[] = {
        [WR_OP_STORE] = "writing to memory",
        [WR_OP_LOAD] = "reading from memory",
        [WR_OP_CHECK_EQ] = "it is not what it was at the checkpoint",
        [WR_OP_CHECK_GE] = "it is smaller than at the checkpoint",
        [WR_OP_CHECK_MEM] = "its content is not what it was at the checkpoint",
        [WR_OP_ADD] = "counting",
        [WR_OP_WAIT] = "waiting",
        [WR_OP_SPAWN] = "clone3",
        [WR_OP_ENTER] = "rt_sigreturn",
        [WR_OP_PAGER] = "becoming the pager",
        [WR_OP_EXIT] = "exit_group",
        [WR_OP_AHEAD] = "starting to decode ahead",
        [WR_OP_STORM] = "starting to install beside the pager",
        [WR_OP_FORK] = "clone3",
        [WR_OP_SKIP_EQ] = "comparing",
    };
    if (op->kind != WR_OP_SYSCALL)
        return words[op->kind];
    /* Slots of its own a task keeps to itself: only those that the launcher filled are the same here. */
    bool known = (op->flags & WR_NR_FROM_SLOT) == 0 || op->nr < WR_SLOT_FIRST;
    if (!known)
        return "system call";
    const char *name = syscall_name((op->flags & WR_NR_FROM_SLOT) != 0 ? region->slots[op->nr] : op->nr);
    return name != NULL ? name : "system call";
}

static bool is_check(const struct wr_op *op)
{
    return op->kind == WR_OP_CHECK_EQ || op->kind == WR_OP_CHECK_GE || op->kind == WR_OP_CHECK_MEM;
}

static void say_op(const struct image *image, const struct region *region, const struct wr_program *program,
                   const struct wr_failure *failure)
{
    char what[512], why[256] = "";
    const struct wr_op *op = image_op(image, program, failure->op);
    const struct wr_object *object = image_object(image, op);
    const char *hint = object != NULL ? image_text(image, object->hint_offset) : "";
    if (object != NULL)
        snprintf(what, sizeof(what), "%s", image_text(image, object->text_offset));
    else
        snprintf(what, sizeof(what), "op %u of program '%s'", failure->op,
                 image_text(image, program->name_offset));
    if (failure->error != 0 && !is_check(op))
        snprintf(why, sizeof(why), ": %s", strerror(failure->error));
    else if (!is_check(op))
        snprintf(why, sizeof(why), ": the result was %lld instead of %lld", (long long)failure->result,
                 (long long)op->expected);
    warn("cannot restore %s: %s%s%s%s", what, op_word(region, op), why, *hint != '\0' ? "; " : "", hint);
}

bool failure_say(const struct image *image, const struct region *region)
{
    /* A copy: tasks that live on can still write to the page. */
    uint32_t claimed = __atomic_load_n(&region->ctl->failure.claimed, __ATOMIC_ACQUIRE);
    struct wr_failure failure = region->ctl->failure;
    if (claimed != RECORD_WRITTEN)
        return false;
    const struct wr_program *program = image_program(image, failure.program);
    if (program != NULL && failure.op < program->ops_count)
        say_op(image, region, program, &failure);
    else
        warn("cannot restore: the loader failed at op %u of program %u, which the image does not have: %s",
             failure.op, failure.program, strerror(failure.error));
    return true;
}

static const char *phase(const struct wr_ctl *ctl)
{
    if (ctl->go != 0)
        return "while it was running";
    if (ctl->ready != 0)
        return "while threads were restored";
    if (ctl->eager_done != 0)
        return "after its first pages were in place";
    return "while its address space was restored";
}

void failure_say_status(const struct region *region, const char *who, int status)
{
    const char *when = phase(region->ctl);
    if (!WIFSIGNALED(status))
        warn("cannot restore: %s ended with code %d %s and left no reason", who, WEXITSTATUS(status), when);
    else if (WTERMSIG(status) == SIGKILL)
        warn("cannot restore: %s was killed %s; see the kernel's log for the out-of-memory killer", who,
             when);
    else
        warn("cannot restore: %s was killed by signal %d (%s) %s", who, WTERMSIG(status),
             sigdescr_np(WTERMSIG(status)) != NULL ? sigdescr_np(WTERMSIG(status)) : "unknown", when);
}
