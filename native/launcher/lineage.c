/* SPDX-License-Identifier: Apache-2.0 */
#include "lineage.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int lineage_pidfd(const struct lineage *one)
{
    struct proc_stat stat;
    int fd = (int)syscall(SYS_pidfd_open, one->pid, 0);
    if (fd < 0)
        return -1;
    /* The PID may have passed to another process since it was listed. */
    if (proc_stat(one->pid, &stat) && stat.start_ticks == one->stat.start_ticks)
        return fd;
    close(fd);
    return -1;
}

static int by_pid(const void *a, const void *b)
{
    pid_t x = ((const struct lineage *)a)->pid, y = ((const struct lineage *)b)->pid;
    return (x > y) - (x < y);
}

/* One more generation; false when there was none. */
static bool mark_below(struct lineage *all, size_t count, pid_t root)
{
    bool found = false;
    for (size_t i = 0; i < count; i++) {
        if (all[i].below)
            continue;
        struct lineage key = {.pid = all[i].stat.parent};
        const struct lineage *parent = bsearch(&key, all, count, sizeof(*all), by_pid);
        all[i].below = all[i].stat.parent == root || (parent != NULL && parent->below);
        found |= all[i].below;
    }
    return found;
}

size_t lineage_all(struct lineage *all)
{
    pid_t *pids = malloc(LINEAGE_MAX * sizeof(*pids));
    size_t listed = pids != NULL ? proc_list(0, pids, LINEAGE_MAX) : 0, count = 0;
    for (size_t i = 0; i < listed; i++) {
        all[count] = (struct lineage){.pid = pids[i]};
        if (proc_stat(pids[i], &all[count].stat))
            count++;
    }
    free(pids);
    qsort(all, count, sizeof(*all), by_pid);
    return count;
}

size_t lineage_list(struct lineage *all, pid_t root)
{
    size_t count = lineage_all(all);
    while (mark_below(all, count, root))
        continue;
    return count;
}
