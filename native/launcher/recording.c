/* SPDX-License-Identifier: Apache-2.0 */
#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "say.h"

/* From resume on: long enough for first requests, and short enough to live without the fill. */
#define RECORD_NS UINT64_C(3000000000)

enum { NAME_BYTES = 64 };

static int folder_fd = -1;

void recording_open(const struct options *options)
{
    char path[PATH_MAX];
    if (!options->record)
        return;
    if ((size_t)snprintf(path, sizeof(path), "%s/recordings", options->store) >= sizeof(path))
        die("the path of the store is too long: %s", options->store);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        die("cannot make %s for --record: %s", path, strerror(errno));
    folder_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0 || faccessat(folder_fd, ".", W_OK, AT_EACCESS) != 0)
        die("cannot write to %s for --record: %s", path, strerror(errno));
}

/* Under another name first: who reads the folder finds whole recordings only. */
static bool write_file(const struct wr_recording *head, const struct wr_use *uses)
{
    char name[NAME_BYTES], aside[NAME_BYTES + 1];
    struct iovec parts[] = {
        {(void *)(uintptr_t)head, sizeof(*head)},
        {(void *)(uintptr_t)uses, head->chunks_count * sizeof(*uses)},
    };
    snprintf(name, sizeof(name), "%016llx-%016llx-%d", (unsigned long long)head->image_id,
             (unsigned long long)now_ns(), getpid());
    snprintf(aside, sizeof(aside), ".%s", name);
    int fd = openat(folder_fd, aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    ssize_t wanted = (ssize_t)(parts[0].iov_len + parts[1].iov_len);
    bool written = writev(fd, parts, 2) == wanted;
    close(fd);
    if (written && renameat(folder_fd, aside, folder_fd, name) == 0)
        return true;
    unlinkat(folder_fd, aside, 0);
    return false;
}

/* By the two moments that the launcher has noted; the program can write there, and must not make us divide by zero. */
static struct wr_use *uses_of(const struct wr_trace *trace, uint64_t count)
{
    const struct wr_used *used = (const struct wr_used *)(trace + 1);
    struct wr_use *uses = calloc(count + 1, sizeof(*uses));
    uint64_t cycles = trace->tsc[1] - trace->tsc[0];
    double us_per_cycle = cycles > 0 ? (double)(trace->ns[1] - trace->ns[0]) / 1e3 / (double)cycles : 0;
    for (uint64_t i = 0; uses != NULL && i < count; i++) {
        double us = used[i].tsc > trace->tsc[1] ? (double)(used[i].tsc - trace->tsc[1]) * us_per_cycle : 0;
        uses[i] = (struct wr_use){used[i].record, us < UINT32_MAX ? (uint32_t)us : UINT32_MAX};
    }
    return uses;
}

int recording_wait_ms(const struct launch *launch)
{
    if (folder_fd < 0 || launch->resumed_ns == 0 || launch->options.fill == WR_FILL_NONE)
        return -1;
    uint64_t passed = now_ns() - launch->resumed_ns;
    return passed >= RECORD_NS ? 0 : (int)((RECORD_NS - passed) / 1000000) + 1;
}

static void write_recording(const struct launch *launch, const struct member *member)
{
    const struct wr_trace *trace = member->region.trace;
    const struct wr_process *process = image_process(&launch->image, member->index);
    /* The program can write to this memory: only what is bounded here is believed. */
    uint64_t count = __atomic_load_n(&trace->used_count, __ATOMIC_ACQUIRE);
    if (count > process->records_count)
        count = process->records_count;
    struct wr_recording head = {
        .magic = "RSTRREC",
        .image_id = launch->image.id,
        .map_check = process->map_check,
        .chunks_count = (uint32_t)count,
    };
    struct wr_use *uses = uses_of(trace, count);
    if (uses == NULL || !write_file(&head, uses))
        warn("cannot write what --record has seen: %s", strerror(errno));
    free(uses);
}

void recording_finish(struct launch *launch)
{
    if (folder_fd < 0)
        return;
    for (uint32_t i = 0; i < launch->tree.count; i++)
        write_recording(launch, &launch->tree.members[i]);
    close(folder_fd);
    folder_fd = -1;
    for (uint32_t i = 0; i < launch->tree.count; i++)
        if (launch->options.fill == WR_FILL_BACKGROUND)
            launch->tree.members[i].region.ctl->fill = WR_FILL_BACKGROUND;
}
