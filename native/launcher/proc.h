/* SPDX-License-Identifier: Apache-2.0
 *
 * /proc as the launcher saw it when it started: with --pid ns another one is mounted over it.
 */
#ifndef RESTORER_PROC_H
#define RESTORER_PROC_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

void proc_open(void);

/* Opens "PID/name" for reading, or NULL. The launcher's own PID does what "self" would not do in the other
 * /proc. */
FILE *proc_stream(pid_t pid, const char *name);

/* Reads "PID/name" NUL-terminated; the length, or -1. */
ssize_t proc_read(pid_t pid, const char *name, char *to, size_t bytes);

/* Writes "PID/name", at once. */
bool proc_write(pid_t pid, const char *name, const char *from, size_t bytes);

/* "'nginx' (nginx: master process)" of a process, or of the one that a thread belongs to; false when there
 * is none. */
bool proc_describe(pid_t pid, char *to, size_t bytes);

/* The PID of the process that a pidfd of ours refers to, as the launcher's PID namespace has it; not positive when it
 * has ended or is none of that namespace. */
pid_t proc_pidfd(int pidfd);

/* Fills `pids` with the tids of a process, or with every PID when `pid` is 0; how many, at most `count`. */
size_t proc_list(pid_t pid, pid_t *pids, size_t count);

/* Whether a mapping of the process begins at this address. */
bool proc_maps(pid_t pid, uint64_t start);

/* Whether any thread of the process has such a mapping: a leader that has ended has none itself. */
bool proc_uses(pid_t pid, uint64_t start);

/* A line of "PID/maps" or "PID/smaps" has no more. */
enum { PROC_MAPS_LINE_BYTES = PATH_MAX + 128 };

/* Whether a line of "PID/smaps" has this two-letter flag of a mapping (VmFlags in proc_pid_smaps(5)). */
bool proc_has_flag(const char *line, const char *flag);

/* Whether a mapping of the process is registered with a userfaultfd for pages that are missing. */
bool proc_is_watched(pid_t pid);

struct proc_stat {
    char state;
    pid_t parent;
    pid_t group;
    pid_t session;
    uint64_t start_ticks;
};

bool proc_stat(pid_t pid, struct proc_stat *stat);

#endif
