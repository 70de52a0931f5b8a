/* SPDX-License-Identifier: Apache-2.0
 * More children alive at once, all of them missing memory, than a pager has spaces for, and children of these as well: who
 * forks waits for room, nobody is killed, and each sees what its parent had when it forked. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES    384
#define CHILDREN 500
#define FAMILIES 8 /* of so many children one has children of its own */

static char *area;
static int gate[2];

static size_t wrong_with(int mark)
{
    return memory_wrong_from(area + PAGE, 1, PAGES - 1, 1) + (area[0] != (char)mark);
}

/* Reads a part, waits until all are there, reads everything. */
static int look(size_t i, int mark)
{
    char end;
    size_t first = 16 + i % (PAGES - 32);
    size_t wrong = memory_wrong_from(area + first * PAGE, first, 4, 1);
    MUST(close(gate[1]) == 0 && read(gate[0], &end, 1) == 0);
    return wrong + wrong_with(mark) != 0;
}

static int wait_child(pid_t pid)
{
    int status = -1;
    MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static int family(size_t i)
{
    pid_t pid[2];
    int wrong = 0;
    for (int n = 0; n < 2; n++) {
        pid[n] = fork();
        if (pid[n] == 0)
            _exit(look(i + n, (int)i));
        area[0]++;
    }
    MUST(close(gate[1]) == 0);
    for (int n = 0; n < 2; n++)
        wrong |=
            n == 0 ? wait_child(pid[n]) : (wait_child(pid[n]) != 256); /* the second sees the mark moved on */
    return wrong || wrong_with((int)i + 2);
}

static int child(size_t i)
{
    return i % FAMILIES ? look(i, (int)i) : family(i);
}

int main(int argc, char **argv)
{
    static pid_t pids[CHILDREN];
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    MUST(pipe2(gate, O_CLOEXEC) == 0);
    for (size_t i = 0; i < CHILDREN; i++) {
        area[0] = (char)i;
        pids[i] = fork();
        MUST(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(child(i));
    }
    MUST(close(gate[1]) == 0);
    for (size_t i = 0; i < CHILDREN; i++)
        EXPECT_EQ(wait_child(pids[i]), 0);
    EXPECT_EQ(memory_wrong_from(area + PAGE, 1, PAGES - 1, 1), 0);
    return test_done();
}
