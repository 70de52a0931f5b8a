/* SPDX-License-Identifier: Apache-2.0 */
#include "proc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

static int proc_fd = -1;

void proc_open(void)
{
    proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc_fd < 0 || faccessat(proc_fd, "self/stat", F_OK, 0) != 0)
        die("/proc is not there: mount it");
}

static int open_of(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "%d/%s", pid, name);
    return openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
}

FILE *proc_stream(pid_t pid, const char *name)
{
    int fd = open_of(pid, name);
    return fd >= 0 ? fdopen(fd, "r") : NULL;
}

ssize_t proc_read(pid_t pid, const char *name, char *to, size_t bytes)
{
    int fd = open_of(pid, name);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, to, bytes - 1);
    close(fd);
    if (n >= 0)
        to[n] = '\0';
    return n;
}

bool proc_write(pid_t pid, const char *name, const char *from, size_t bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "%d/%s", pid, name);
    int fd = openat(proc_fd, path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, from, bytes) == (ssize_t)bytes;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return done;
}

static pid_t thread_group(pid_t pid)
{
    char status[4096];
    if (proc_read(pid, "status", status, sizeof(status)) < 0)
        return 0;
    const char *line = strstr(status, "\nTgid:");
    return line != NULL ? (pid_t)strtol(line + 6, NULL, 10) : 0;
}

bool proc_describe(pid_t pid, char *to, size_t bytes)
{
    char name[64], command[96], thread[48] = "";
    pid_t group = thread_group(pid);
    if (group == 0 || proc_read(pid, "comm", name, sizeof(name)) <= 0)
        return false;
    name[strcspn(name, "\n")] = '\0';
    ssize_t n = proc_read(pid, "cmdline", command, 80);
    for (ssize_t i = 0; i + 1 < n; i++)
        if (command[i] == '\0')
            command[i] = ' ';
    if (group != pid)
        snprintf(thread, sizeof(thread), ", a thread of PID %d", group);
    snprintf(to, bytes, "'%s' (%s%s)", name, n > 0 ? command : "no command line", thread);
    return true;
}

bool proc_has_flag(const char *line, const char *flag)
{
    return strncmp(line, "VmFlags:", 8) == 0 && strstr(line + 8, flag) != NULL;
}

bool proc_is_watched(pid_t pid)
{
    char line[PROC_MAPS_LINE_BYTES];
    bool found = false;
    FILE *maps = proc_stream(pid, "smaps");
    while (maps != NULL && !found && fgets(line, sizeof(line), maps) != NULL)
        found = proc_has_flag(line, "um");
    if (maps != NULL)
        fclose(maps);
    return found;
}

bool proc_stat(pid_t pid, struct proc_stat *stat)
{
    char text[1024];
    int parent, group, session;
    unsigned long long start;
    if (proc_read(pid, "stat", text, sizeof(text)) <= 0)
        return false;
    /* A command's name may hold spaces and parentheses: the fields begin after the last one (proc(5)). */
    const char *fields = strrchr(text, ')');
    if (fields == NULL ||
        sscanf(fields + 1, " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &stat->state, &parent, &group, &session, &start) != 5)
        return false;
    stat->parent = parent;
    stat->group = group;
    stat->session = session;
    stat->start_ticks = start;
    return true;
}

size_t proc_list(pid_t pid, pid_t *pids, size_t count)
{
    char path[32] = ".";
    size_t n = 0;
    struct dirent *entry;
    if (pid != 0)
        snprintf(path, sizeof(path), "%d/task", pid);
    int fd = openat(proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while (n < count && (entry = readdir(dir)) != NULL)
        if (isdigit((unsigned char)entry->d_name[0]))
            pids[n++] = (pid_t)strtol(entry->d_name, NULL, 10);
    closedir(dir);
    return n;
}

pid_t proc_pidfd(int pidfd)
{
    char name[48], text[512];
    snprintf(name, sizeof(name), "fdinfo/%d", pidfd);
    if (proc_read(getpid(), name, text, sizeof(text)) < 0)
        return -1;
    const char *line = strstr(text, "\nPid:");
    return line != NULL ? (pid_t)strtol(line + strlen("\nPid:"), NULL, 10) : -1;
}

bool proc_maps(pid_t pid, uint64_t start)
{
    char line[512];
    bool found = false;
    FILE *maps = proc_stream(pid, "maps");
    while (maps != NULL && !found && fgets(line, sizeof(line), maps) != NULL)
        found = strtoull(line, NULL, 16) == start;
    if (maps != NULL)
        fclose(maps);
    return found;
}

/* A thread may make another and end between our looks, so that neither is seen: then the list has changed. */
bool proc_uses(pid_t pid, uint64_t start)
{
    enum { TASKS_MAX = 65536 };
    pid_t *tids = malloc(2 * TASKS_MAX * sizeof(*tids));
    size_t count = 0, again = 0;
    bool found = tids == NULL;
    while (!found) {
        count = proc_list(pid, tids, TASKS_MAX);
        for (size_t i = 0; i < count && !found; i++)
            found = proc_maps(tids[i], start);
        again = found ? 0 : proc_list(pid, tids + TASKS_MAX, TASKS_MAX);
        if (again == count && memcmp(tids, tids + TASKS_MAX, count * sizeof(*tids)) == 0)
            break;
    }
    free(tids);
    return found;
}
