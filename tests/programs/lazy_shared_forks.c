/* SPDX-License-Identifier: Apache-2.0
 * More children at once than there is room for, forked while shared memory is missing: all see it, and each other in it.
 */
#include "memory.h"
#include <sys/wait.h>

#define PAGES    1024
#define CHILDREN 100

static char *area;

static int look(int number, int from)
{
    char byte;
    /* All are there before the first one looks. */
    if (read(from, &byte, 1) != 1)
        return 1;
    area[(size_t)number * PAGE + 100] = (char)number;
    return memory_wrong_from(area + CHILDREN * PAGE, CHILDREN, PAGES - CHILDREN, 1) != 0;
}

int main(int argc, char **argv)
{
    int link[2], status;
    pid_t pids[CHILDREN];
    test_init(argc, argv);
    area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(area != MAP_FAILED && pipe(link) == 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    for (int i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            _exit(look(i, link[0]));
        MUST(pids[i] > 0);
    }
    for (int i = 0; i < CHILDREN; i++)
        MUST(write(link[1], "g", 1) == 1);
    for (int i = 0; i < CHILDREN; i++)
        EXPECT(waitpid(pids[i], &status, 0) == pids[i] && status == 0);
    for (int i = 0; i < CHILDREN; i++)
        EXPECT_EQ(area[(size_t)i * PAGE + 100], i);
    EXPECT_EQ(memory_wrong_from(area + CHILDREN * PAGE, CHILDREN, PAGES - CHILDREN, 1), 0);
    return test_done();
}
