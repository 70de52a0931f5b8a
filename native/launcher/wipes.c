/* SPDX-License-Identifier: Apache-2.0 */
#include "wipes.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proc.h"

enum { THREADS_MAX = 4096 };

static void note(struct wr_wipes *wipes, uint64_t start, uint64_t end)
{
    if (wipes->count == WR_WIPES) {
        wipes->next = wipes->next != 0 ? wipes->next : start;
        return;
    }
    wipes->list[wipes->count].start = start;
    wipes->list[wipes->count].end = end;
    wipes->count++;
}

/* proc_pid_smaps(5): a line as in maps begins each mapping, and its flags come last, "wf" for MADV_WIPEONFORK. False where
 * there is no mapping: the thread has left its mm. */
static bool look(struct wr_wipes *wipes, pid_t tid, uint64_t from)
{
    char line[PROC_MAPS_LINE_BYTES];
    unsigned long long start = 0, end = 0;
    FILE *maps = proc_stream(tid, "smaps");
    if (maps == NULL)
        return false;
    wipes->count = 0;
    wipes->next = 0;
    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long long at, to;
        if (sscanf(line, "%llx-%llx ", &at, &to) == 2) {
            start = at;
            end = to;
        } else if (end > from && proc_has_flag(line, "wf")) {
            note(wipes, start, end);
        }
    }
    fclose(maps);
    return end != 0;
}

void wipes_answer(struct wr_wipes *wipes, pid_t pid, uint64_t from)
{
    static pid_t tids[THREADS_MAX];
    size_t threads = proc_list(pid, tids, THREADS_MAX);
    bool seen = false;
    wipes->count = WR_WIPES + 1;
    for (size_t i = 0; i < threads && !seen; i++)
        seen = look(wipes, tids[i], from);
    __atomic_store_n(&wipes->ready, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &wipes->ready, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
