/* SPDX-License-Identifier: Apache-2.0
 * Forks more children while pages are missing than a pager can serve at once: one after the other, each gone before the
 * next; the mm of a child that has ended must not be kept. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES    4096
#define CHILDREN 200

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    for (size_t i = 0; i < CHILDREN; i++) {
        size_t first = i * (PAGES / CHILDREN);
        int status;
        pid_t pid = fork();
        MUST(pid >= 0);
        if (pid == 0)
            _exit(memory_wrong_from(area + first * PAGE, first, PAGES / CHILDREN, 1) != 0);
        MUST(waitpid(pid, &status, 0) == pid);
        EXPECT_EQ(status, 0);
    }
    EXPECT_EQ(memory_wrong(area, PAGES, 1), 0);
    return test_done();
}
