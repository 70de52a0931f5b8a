/* SPDX-License-Identifier: Apache-2.0
 *
 * Who descends from whom, as /proc shows it at one moment.
 */
#ifndef RESTORER_LINEAGE_H
#define RESTORER_LINEAGE_H
#include <stdbool.h>
#include <stddef.h>

#include "proc.h"

enum { LINEAGE_MAX = 65536 };

struct lineage {
    pid_t pid;
    struct proc_stat stat;
    bool below;
};

/* All processes, sorted by PID; how many. `all` has LINEAGE_MAX places. */
size_t lineage_all(struct lineage *all);

/* The same, with `below` set for the descendants of `root`. */
size_t lineage_list(struct lineage *all, pid_t root);

/* A pidfd of this very process, or -1 when it has gone. */
int lineage_pidfd(const struct lineage *one);

#endif
