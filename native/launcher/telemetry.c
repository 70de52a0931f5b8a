/* SPDX-License-Identifier: Apache-2.0 */
#include "telemetry.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "say.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

_Static_assert(sizeof(struct wr_ctl) <= WR_TRACE_OFFSET, "the trace lies behind wr_ctl");
_Static_assert(sizeof(((struct wr_trace *)0)->ring) / sizeof(struct wr_fault) == WR_TRACE_FAULTS, "ring");
_Static_assert(sizeof(((struct wr_trace *)0)->name) == WR_TRACE_NAME_BYTES, "name");

/* MFD_NOEXEC_SEAL is of Linux 6.3, and vm.memfd_noexec may insist on it. Where there is no memfd nobody can look, which
 * is no reason not to restore. */
static int open_shared(uint64_t bytes)
{
    int fd = memfd_create("restorer", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("restorer", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void telemetry_map(uint64_t start, uint64_t bytes)
{
    int fd = open_shared(bytes);
    int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
    if (mmap((void *)start, bytes, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED)
        die("no memory for the restore (%llu bytes): %s", (unsigned long long)bytes, strerror(errno));
}

static void note_moment(struct wr_trace *trace, int i)
{
    trace->tsc[i] = __builtin_ia32_rdtsc();
    trace->ns[i] = now_ns();
}

void telemetry_init(const struct region *region, const struct image *image, uint64_t records)
{
    struct wr_trace *trace = region->trace;
    trace->version = WR_TRACE_VERSION;
    trace->image_id = image->id;
    trace->records_count = records;
    strncpy((char *)trace->name, image->name, sizeof(trace->name) - 1);
    note_moment(trace, 0);
    memcpy(trace->magic, "RSTRTRC", sizeof(trace->magic));
}

void telemetry_resumed(const struct region *region, pid_t pid)
{
    note_moment(region->trace, 1);
    __atomic_store_n(&region->trace->pid, (int32_t)pid, __ATOMIC_RELEASE);
}
