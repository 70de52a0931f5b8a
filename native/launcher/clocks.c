/* SPDX-License-Identifier: Apache-2.0 */
#include "clocks.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proc.h"
#include "say.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define NANO INT64_C(1000000000)

static int64_t read_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * NANO + t.tv_nsec;
}

/* Whole seconds may be negative, nanoseconds may not (proc_timens_set_offset). */
static int64_t whole_seconds(int64_t ns)
{
    return ns >= 0 ? ns / NANO : -((-ns + NANO - 1) / NANO);
}

/* timens_offsets count from the machine's clocks, and the launcher may be in a time namespace itself: what this one has is
 * the beginning of the new one's. */
static bool add_offsets(int64_t monotonic_ns, int64_t boottime_ns)
{
    char text[256], line[256];
    long long m_s, m_ns, b_s, b_ns;
    if (proc_read(getpid(), "timens_offsets", text, sizeof(text)) <= 0 ||
        sscanf(text, "monotonic %lld %lld boottime %lld %lld", &m_s, &m_ns, &b_s, &b_ns) != 4)
        return false;
    monotonic_ns += m_s * NANO + m_ns;
    boottime_ns += b_s * NANO + b_ns;
    int64_t monotonic_s = whole_seconds(monotonic_ns), boottime_s = whole_seconds(boottime_ns);
    int bytes = snprintf(line, sizeof(line), "monotonic %lld %lld\nboottime %lld %lld\n",
                         (long long)monotonic_s, (long long)(monotonic_ns - monotonic_s * NANO),
                         (long long)boottime_s, (long long)(boottime_ns - boottime_s * NANO));
    return proc_write(getpid(), "timens_offsets", line, (size_t)bytes);
}

void clocks_enter(const struct image *image, const struct options *options)
{
    const struct wr_header *header = image_header(image);
    int64_t monotonic = (int64_t)header->monotonic_ns - read_clock(CLOCK_MONOTONIC);
    int64_t boottime = (int64_t)header->boottime_ns - read_clock(CLOCK_BOOTTIME);
    bool back = header->own_time != 0 || monotonic > 0 || boottime > 0;
    if (header->monotonic_ns == 0 || (!options->continue_time && !back))
        return;
    if (unshare(CLONE_NEWTIME) != 0)
        die("cannot make a time namespace: %s; the program's clocks %s (CAP_SYS_ADMIN and CONFIG_TIME_NS)",
            strerror(errno), back ? "would go back without one" : "go on only in one");
    if (!add_offsets(monotonic, boottime))
        die("cannot set the clocks of the time namespace: %s; this needs CAP_SYS_TIME", strerror(errno));
}
