/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that talk by a socket pair each: the parent asks, the child does what `serve` does with the byte and answers
 * with 0 or the number of the line that it does not like.
 */
#ifndef TREE_H
#define TREE_H
#include "test.h"
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return __LINE__;                                                                                 \
    } while (0)

struct child {
    pid_t pid;
    int link;
};

typedef int serve_fn(char asked, void *argument);

__attribute__((noreturn)) static inline void tree_serve(int link, serve_fn *serve, void *argument)
{
    char asked;
    while (read(link, &asked, 1) == 1 && asked != 'x') {
        int line = serve(asked, argument);
        if (write(link, &line, sizeof(line)) != sizeof(line))
            break;
    }
    _exit(0);
}

static inline struct child tree_fork(serve_fn *serve, void *argument)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        close(pair[0]);
        tree_serve(pair[1], serve, argument);
    }
    close(pair[1]);
    return (struct child){pid, pair[0]};
}

/* 0, or the line at which the child has found a difference, or -1 when it does not answer. */
static inline int tree_ask(const struct child *child, char what)
{
    int line = -1;
    if (write(child->link, &what, 1) != 1 || read(child->link, &line, sizeof(line)) != sizeof(line))
        return -1;
    return line;
}

/* Tells it to end and waits: its exit code, or minus the signal that has killed it. */
static inline int tree_end(const struct child *child)
{
    int status;
    MUST(write(child->link, "x", 1) == 1);
    close(child->link);
    MUST(waitpid(child->pid, &status, 0) == child->pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* The letter of proc(5). */
static inline char tree_state(pid_t pid)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && close(fd) == 0);
    const char *end = strrchr(text, ')');
    return end != NULL ? end[2] : '?';
}

#endif
