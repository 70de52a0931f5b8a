/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread that is inside a given syscall when `ready` appears, and that main wakes after `go`.
 */
#ifndef BLOCKED_H
#define BLOCKED_H
#include "test.h"
#include <pthread.h>

struct blocked {
    long nr;             /* the syscall the thread has to be in */
    void (*block)(void); /* makes it, and looks at what it gives */
    void (*wake)(void);  /* makes it end; NULL where time does */
};

static volatile pid_t blocked_tid;

static inline int64_t blocked_now_ms(void)
{
    struct timespec now;
    MUST(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static inline void *blocked_thread(void *blocked)
{
    blocked_tid = (pid_t)syscall(SYS_gettid);
    ((const struct blocked *)blocked)->block();
    return NULL;
}

/* Whether /proc/self/task/TID/syscall begins with `nr`: it says "running" for who is in none. */
static inline int blocked_inside(long nr)
{
    char path[64], text[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)blocked_tid);
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    return length > 0 && text[0] >= '0' && text[0] <= '9' && strtol(text, NULL, 10) == nr;
}

static inline int blocked_main(const struct blocked *blocked)
{
    struct timespec pause = {.tv_nsec = 1000000};
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, blocked_thread, (void *)blocked) == 0);
    while (!blocked_tid || !blocked_inside(blocked->nr))
        nanosleep(&pause, NULL);
    test_wait();
    if (blocked->wake)
        blocked->wake();
    MUST(pthread_join(thread, NULL) == 0);
    return test_done();
}

/* A relative timeout may start anew when the call is restarted, but never ends early nor hangs. */
#define BLOCKED_MS       2000
#define BLOCKED_SLACK_MS 15000

static inline void blocked_expect_elapsed(int64_t since_ms)
{
    int64_t elapsed = blocked_now_ms() - since_ms;
    if (elapsed < BLOCKED_MS || elapsed > 2 * BLOCKED_MS + BLOCKED_SLACK_MS)
        test_differs("%lld ms have passed, not %d", (long long)elapsed, BLOCKED_MS);
}

#endif
