/* SPDX-License-Identifier: Apache-2.0
 *
 * What every program here does: `prog WORKDIR` sets its state up, creates WORKDIR/ready, waits for WORKDIR/go,
 * looks whether the state is still what it was, and writes "ok" or the differences, one a line, to WORKDIR/result.
 *
 *     int main(int argc, char **argv)
 *     {
 *         test_init(argc, argv);
 *         ...
 *         test_wait();
 *         EXPECT(umask(0) == 027);
 *         return test_done();
 *     }
 */
#ifndef TEST_H
#define TEST_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *test_workdir;
static char test_differences[8192];
static size_t test_length;

/* Something that must work for the test to mean anything. */
#define MUST(condition) ((condition) ? (void)0 : test_abort(#condition, __LINE__))
/* Something that must be as it was. */
#define EXPECT(condition) ((condition) ? (void)0 : test_differs("line %d: %s", __LINE__, #condition))
/* The same, for two integers, whose values are told. */
#define EXPECT_EQ(value, expected) test_equal((long long)(value), (long long)(expected), #value, __LINE__)

static inline const char *test_path(const char *name)
{
    static __thread char path[4096];
    snprintf(path, sizeof path, "%s/%s", test_workdir, name);
    return path;
}

__attribute__((format(printf, 1, 2))) static inline void test_differs(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof test_differences - test_length;
    int length = vsnprintf(test_differences + test_length, room, format, arguments);
    va_end(arguments);
    if ((size_t)length + 1 < room) {
        test_length += length;
        test_differences[test_length++] = '\n';
    }
}

/* Written beside and renamed: who polls for `result` never sees part of it. */
static inline int test_done(void)
{
    const char *text = test_length ? test_differences : "ok\n";
    size_t length = test_length ? test_length : 3;
    char draft[4096];
    snprintf(draft, sizeof draft, "%s", test_path("result.draft"));
    int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, length) != (ssize_t)length || close(fd) ||
        rename(draft, test_path("result")))
        return 4;
    return test_length ? 1 : 0;
}

__attribute__((noreturn)) static inline void test_abort(const char *what, int line)
{
    test_differs("line %d: %s: %s", line, what, strerror(errno));
    test_done();
    _exit(3);
}

static inline void test_equal(long long value, long long expected, const char *what, int line)
{
    if (value != expected)
        test_differs("line %d: %s is %lld (%#llx), not %lld (%#llx)", line, what, value,
                     (unsigned long long)value, expected, (unsigned long long)expected);
}

static inline void test_init(int argc, char **argv)
{
    if (argc != 2 || argv[1][0] != '/') {
        fprintf(stderr, "usage: %s WORKDIR (absolute)\n", argv[0]);
        exit(2);
    }
    test_workdir = argv[1];
}

static inline void test_ready(void)
{
    /* Whoever sees it must not see its descriptor among ours any more. */
    char draft[4096];
    snprintf(draft, sizeof draft, "%s", test_path("ready.draft"));
    MUST(close(open(draft, O_WRONLY | O_CREAT, 0600)) == 0);
    MUST(rename(draft, test_path("ready")) == 0);
}

static inline int test_may_go(void)
{
    return access(test_path("go"), F_OK) == 0;
}

/* For who has something to do meanwhile; others call test_wait. */
static inline void test_wait_go(void)
{
    struct timespec pause = {.tv_nsec = 2000000};
    while (!test_may_go())
        nanosleep(&pause, NULL);
}

static inline void test_wait(void)
{
    test_ready();
    test_wait_go();
}

#endif
