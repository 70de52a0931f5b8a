/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "say.h"

static int stats_fd = -1;
static char pidfile_path[PATH_MAX], pidfile_temporary[PATH_MAX + 16];
static int pidfile_fd = -1;

static const struct {
    const char *name;
    size_t offset;
} counter_fields[] = {
    {"faults", offsetof(struct wr_counters, faults)},
    {"fault_pages", offsetof(struct wr_counters, fault_pages)},
    {"fill_pages", offsetof(struct wr_counters, fill_pages)},
    {"eager_pages", offsetof(struct wr_counters, eager_pages)},
    {"moved_pages", offsetof(struct wr_counters, moved_pages)},
    {"copied_pages", offsetof(struct wr_counters, copied_pages)},
    {"zero_pages", offsetof(struct wr_counters, zero_pages)},
    {"written_pages", offsetof(struct wr_counters, written_pages)},
    {"poisoned_pages", offsetof(struct wr_counters, poisoned_pages)},
    {"dropped_pages", offsetof(struct wr_counters, dropped_pages)},
    {"decoded_chunks", offsetof(struct wr_counters, decoded_chunks)},
    {"read_bytes", offsetof(struct wr_counters, read_bytes)},
    {"events", offsetof(struct wr_counters, events)},
    {"retries", offsetof(struct wr_counters, retries)},
    {"total_pages", offsetof(struct wr_counters, total_pages)},
    {"hot_pages", offsetof(struct wr_counters, hot_pages)},
    {"hot_blocks", offsetof(struct wr_counters, hot_blocks)},
    {"huge_pages", offsetof(struct wr_counters, huge_pages)},
    {"huge_dear", offsetof(struct wr_counters, huge_dear)},
};

enum { COUNTERS = sizeof(counter_fields) / sizeof(counter_fields[0]) };
_Static_assert(sizeof(struct wr_counters) == COUNTERS * sizeof(uint64_t), "every counter is reported");

static void write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        bytes -= (size_t)n;
    }
}

void report_open_stats(const struct options *options)
{
    if (options->stats == NULL)
        return;
    if (strcmp(options->stats, "-") == 0)
        stats_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    else
        stats_fd = open(options->stats, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
    if (stats_fd < 0)
        die("cannot open %s for --stats: %s", options->stats, strerror(errno));
}

void report_close_inherited(void)
{
    if (stats_fd < 0) {
        close_range(STDERR_FILENO + 1, ~0U, 0);
        return;
    }
    if (stats_fd > STDERR_FILENO + 1)
        close_range(STDERR_FILENO + 1, (unsigned int)stats_fd - 1, 0);
    close_range((unsigned int)stats_fd + 1, ~0U, 0);
    int low = fcntl(stats_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (low >= 0 && low < stats_fd) {
        close(stats_fd);
        stats_fd = low;
    } else if (low >= 0) {
        close(low);
    }
}

void report_stats(const char *event, const char *ms_name, double ms, const struct wr_counters *counters)
{
    char line[2048];
    if (stats_fd < 0)
        return;
    size_t n = (size_t)snprintf(line, sizeof(line), "{\"event\": \"%s\", \"%s\": %.3f, \"counters\": {",
                                event, ms_name, ms);
    for (size_t i = 0; i < COUNTERS; i++) {
        const uint64_t *value = (const uint64_t *)((const char *)counters + counter_fields[i].offset);
        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s\"%s\": %llu", i == 0 ? "" : ", ",
                              counter_fields[i].name,
                              (unsigned long long)__atomic_load_n(value, __ATOMIC_RELAXED));
    }
    n += (size_t)snprintf(line + n, sizeof(line) - n, "}}\n");
    write_all(stats_fd, line, n);
}

/* Absolute, since the launcher changes to / in the background. */
static void resolve_pidfile(const char *path)
{
    char folder[PATH_MAX];
    int n;
    if (path[0] == '/')
        n = snprintf(pidfile_path, sizeof(pidfile_path), "%s", path);
    else if (getcwd(folder, sizeof(folder)) != NULL)
        n = snprintf(pidfile_path, sizeof(pidfile_path), "%s/%s", folder, path);
    else
        die("cannot find out the current folder for --pidfile: %s", strerror(errno));
    if (n < 0 || (size_t)n >= sizeof(pidfile_path))
        die("the path of --pidfile is too long: %s", path);
}

void report_cleanup(void)
{
    if (pidfile_fd >= 0)
        unlink(pidfile_temporary);
}

void report_prepare_pidfile(const struct options *options)
{
    if (options->pidfile == NULL)
        return;
    resolve_pidfile(options->pidfile);
    snprintf(pidfile_temporary, sizeof(pidfile_temporary), "%s.XXXXXX", pidfile_path);
    pidfile_fd = mkostemp(pidfile_temporary, O_CLOEXEC);
    if (pidfile_fd < 0)
        die("cannot write the pidfile %s: %s", pidfile_path, strerror(errno));
    fchmod(pidfile_fd, 0644);
}

void report_write_pidfile(const struct options *options, pid_t pid)
{
    char text[32];
    if (options->pidfile == NULL)
        return;
    write_all(pidfile_fd, text, (size_t)snprintf(text, sizeof(text), "%d\n", pid));
    close(pidfile_fd);
    if (rename(pidfile_temporary, pidfile_path) != 0) {
        warn("cannot write the pidfile %s: %s; the program runs as PID %d", pidfile_path, strerror(errno),
             pid);
        unlink(pidfile_temporary);
    }
    pidfile_fd = -1;
}

void report_json(int fd, const char *name, pid_t pid, double resume_ms, int exit_code)
{
    char escaped[4096], line[4352];
    json_escape(escaped, sizeof(escaped), name);
    int n =
        snprintf(line, sizeof(line),
                 "{\"schema\": \"restorer.restore/1\", \"name\": \"%s\", \"pid\": %d, \"resume_ms\": %.3f",
                 escaped, pid, resume_ms);
    if (exit_code == EXIT_CODE_NONE)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "}\n");
    else
        n += snprintf(line + n, sizeof(line) - (size_t)n, ", \"exit_code\": %d}\n", exit_code);
    write_all(fd, line, (size_t)n);
}
