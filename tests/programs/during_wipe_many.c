/* SPDX-License-Identifier: Apache-2.0
 * MADV_WIPEONFORK on every other page of many: a child forked while the pages are missing reads zeroes in these and no others. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES 512

static char *area;

static size_t wrong_in_child(void)
{
    static const char zeroes[PAGE];
    size_t differ = 0;
    for (size_t page = 0; page < PAGES; page++)
        differ += page % 2 ? memcmp(area + page * PAGE, zeroes, PAGE) != 0
                           : memory_wrong_from(area + page * PAGE, page, 1, 1);
    return differ;
}

int main(int argc, char **argv)
{
    int status;
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    for (size_t page = 1; page < PAGES; page += 2)
        MUST(madvise(area + page * PAGE, PAGE, MADV_WIPEONFORK) == 0);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0)
        _exit(wrong_in_child() != 0);
    MUST(waitpid(pid, &status, 0) == pid);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(memory_wrong(area, PAGES, 1), 0);
    return test_done();
}
