/* SPDX-License-Identifier: Apache-2.0
 * A thread that is not the leader executes the program anew while others wait for missing pages: they end, the leader's
 * PID goes to the new program, and nothing of the old memory is left. */
#include "memory.h"
#include <pthread.h>

#define PAGES   8192
#define THREADS 8

static char *area;
static char **arguments;

static void *reader(void *argument)
{
    size_t i = (size_t)argument;
    test_wait_go();
    for (;;)
        if (memory_wrong_from(area + i * 1000 * PAGE, i * 1000, 1000, 1))
            _exit(9);
}

static void *executor(void *argument)
{
    test_wait_go();
    EXPECT_EQ(memory_wrong_from(area + 8100 * PAGE, 8100, 8, 1), 0);
    execv("/proc/self/exe", arguments);
    test_abort("execv", __LINE__);
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc == 3) {
        test_init(argc - 1, argv);
        EXPECT_EQ(getpid(), strtol(argv[2], NULL, 10));
        EXPECT_EQ(syscall(SYS_gettid), getpid());
        return test_done();
    }
    test_init(argc, argv);
    char pid[16];
    snprintf(pid, sizeof pid, "%d", getpid());
    arguments = (char *[]){argv[0], argv[1], pid, NULL};
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    for (size_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread, NULL, reader, (void *)i) == 0);
    MUST(pthread_create(&thread, NULL, executor, NULL) == 0);
    test_wait();
    for (;;)
        pause();
}
