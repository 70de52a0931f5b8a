/* SPDX-License-Identifier: Apache-2.0
 *
 * The target's memory, by process_vm_readv(2), and by /proc/PID/mem where access bits forbid that.
 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>
#include "tracer.h"

#define BATCH 256

static int read_through_mem(int mem_fd, uint64_t addr, uint8_t *to, uint64_t bytes, struct tr_error *err)
{
    while (bytes > 0) {
        ssize_t got = pread(mem_fd, to, bytes, (off_t)addr);

        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = ESRCH; /* mem_rw: the mm has gone */
        if (got <= 0)
            return tr_fail(err, "read of /proc/PID/mem", addr);
        addr += (uint64_t)got;
        to += got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

/* process_vm_readv stops at the first page it may not read, at the granularity of an iovec or finer. */
static int read_batch(int pid, int mem_fd, const struct tr_remote *ranges, uint64_t count, uint8_t *to,
                      struct tr_error *err)
{
    struct iovec remote[BATCH];
    struct iovec local = {to, 0};
    uint64_t done;
    ssize_t got;

    for (uint64_t i = 0; i < count; i++) {
        remote[i] = (struct iovec){(void *)ranges[i].addr, ranges[i].bytes};
        local.iov_len += ranges[i].bytes;
    }
    got = process_vm_readv(pid, &local, 1, remote, count, 0);
    if (got < 0 && errno != EFAULT)
        return tr_fail(err, "process_vm_readv", ranges[0].addr);
    done = got < 0 ? 0 : (uint64_t)got;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t have = done < ranges[i].bytes ? done : ranges[i].bytes;

        if (read_through_mem(mem_fd, ranges[i].addr + have, to + have, ranges[i].bytes - have, err) != 0)
            return -1;
        done -= have;
        to += ranges[i].bytes;
    }
    return 0;
}

/* Reads the ranges one after the other into buffer. */
int tr_read_memory(int32_t pid, int32_t mem_fd, const struct tr_remote *ranges, uint64_t count, void *buffer,
                   struct tr_error *err)
{
    uint8_t *to = buffer;

    for (uint64_t first = 0; first < count; first += BATCH) {
        uint64_t n = count - first < BATCH ? count - first : BATCH;

        if (read_batch(pid, mem_fd, ranges + first, n, to, err) != 0)
            return -1;
        for (uint64_t i = first; i < first + n; i++)
            to += ranges[i].bytes;
    }
    return 0;
}

int tr_write_memory(int32_t pid, int32_t mem_fd, uint64_t addr, const void *data, uint64_t bytes,
                    struct tr_error *err)
{
    struct iovec local = {(void *)data, bytes};
    struct iovec remote = {(void *)addr, bytes};
    ssize_t put = process_vm_writev(pid, &local, 1, &remote, 1, 0);
    uint64_t done = put < 0 ? 0 : (uint64_t)put;

    if (put < 0 && errno != EFAULT)
        return tr_fail(err, "process_vm_writev", addr);
    while (done < bytes) {
        put = pwrite(mem_fd, (const uint8_t *)data + done, bytes - done, (off_t)(addr + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return tr_fail(err, "write of /proc/PID/mem", addr + done);
        done += (uint64_t)put;
    }
    return 0;
}
