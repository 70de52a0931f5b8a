/* SPDX-License-Identifier: Apache-2.0
 * Forks at once when it runs again, and twice deep: parent, child and grandchild each see all of the memory,
 * and what one of them writes stays with it. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES 8192

static char *area;

static int wrong(int written)
{
    size_t differ = memory_wrong_from(area + 64 * PAGE, 64, PAGES - 64, 1);
    return differ != 0 || area[0] != written;
}

static int child(int depth)
{
    int status = 0;
    area[0] = (char)depth;
    pid_t pid = depth < 2 ? fork() : -1;
    if (pid == 0)
        _exit(child(depth + 1));
    int result = wrong(depth);
    if (pid > 0)
        result |= waitpid(pid, &status, 0) != pid || status != 0 ? 2 : 0;
    return result;
}

int main(int argc, char **argv)
{
    int status;
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    area[0] = 100;
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0)
        _exit(child(1));
    EXPECT_EQ(wrong(100), 0);
    MUST(waitpid(pid, &status, 0) == pid);
    EXPECT_EQ(status, 0);
    return test_done();
}
