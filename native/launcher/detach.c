/* SPDX-License-Identifier: Apache-2.0 */
#include "detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"
#include "say.h"

struct release {
    pid_t pid;
    double resume_ms;
};

static int front_fd = -1;

static void wait_in_front(const struct options *options, pid_t background, int fd) __attribute__((noreturn));

static void wait_in_front(const struct options *options, pid_t background, int fd)
{
    struct release release;
    ssize_t n;
    int status = 0;
    do
        n = read(fd, &release, sizeof(release));
    while (n < 0 && errno == EINTR);
    if (n == sizeof(release)) {
        char text[32];
        int bytes = snprintf(text, sizeof(text), "%d\n", release.pid);
        if (options->json)
            report_json(STDOUT_FILENO, options->name, release.pid, release.resume_ms, EXIT_CODE_NONE);
        else if (write(STDOUT_FILENO, text, (size_t)bytes) != bytes)
            _exit(EXIT_OWN_FAILURE);
        _exit(0);
    }
    while (waitpid(background, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    die("the launcher was killed by signal %d before the program ran", WTERMSIG(status));
}

void detach_begin(const struct options *options)
{
    int fds[2];
    if (!options->detach)
        return;
    if (pipe2(fds, O_CLOEXEC) != 0)
        die("cannot make a pipe: %s", strerror(errno));
    pid_t background = fork();
    if (background < 0)
        die("cannot go into the background: %s", strerror(errno));
    if (background > 0) {
        close(fds[1]);
        wait_in_front(options, background, fds[0]);
    }
    close(fds[0]);
    front_fd = fds[1];
    setsid();
}

int detach_fd(void)
{
    return front_fd;
}

/* A pipe or socket would keep its reader waiting for the end of file for as long as somebody holds it. */
static bool keeps_reader_waiting(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

int detach_stdio(const struct options *options, int fd)
{
    if (!options->detach || !keeps_reader_waiting(fd))
        return fd;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        die("cannot open /dev/null: %s", strerror(errno));
    return null;
}

void detach_report(pid_t pid, double resume_ms)
{
    struct release release = {.pid = pid, .resume_ms = resume_ms};
    if (front_fd < 0)
        return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        if (keeps_reader_waiting(STDERR_FILENO))
            dup2(null, STDERR_FILENO);
        close(null);
    }
    if (chdir("/") != 0)
        warn("cannot leave the current folder: %s", strerror(errno));
    ssize_t ignored = write(front_fd, &release, sizeof(release));
    (void)ignored;
    close(front_fd);
    front_fd = -1;
}
