/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that are forked with CLONE_FILES or CLONE_FS and talk as those of tree.h do.
 */
#ifndef SHARED_H
#define SHARED_H
#include "tree.h"
#include <sched.h>

enum { SHARED_FILES = 2, SHARED_FS = 3 };

/* A fork(2) with these flags of clone(2). */
static inline pid_t shared_clone(unsigned long flags)
{
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0);
}

/* Both ends of the link stay open in both, who may have one table: the child ends when it is told to. */
static inline struct child shared_fork(unsigned long flags, serve_fn *serve, void *argument)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t pid = shared_clone(flags);
    MUST(pid >= 0);
    if (pid == 0)
        tree_serve(pair[1], serve, argument);
    return (struct child){pid, pair[0]};
}

/* Whether two processes have the same table: kcmp(2). */
static inline int shared_same(pid_t one, pid_t other, int kind)
{
    return syscall(SYS_kcmp, one, other, kind, 0, 0) == 0;
}

static inline pid_t shared_first_child(pid_t pid)
{
    char path[64];
    pid_t child = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *list = fopen(path, "r");
    MUST(list != NULL && fscanf(list, "%d", &child) == 1 && fclose(list) == 0);
    return child;
}

#endif
