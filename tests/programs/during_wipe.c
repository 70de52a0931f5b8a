/* SPDX-License-Identifier: Apache-2.0
 * MADV_WIPEONFORK from before the checkpoint: a child forked while the pages are missing reads zeroes there, its parent
 * reads what it wrote. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES 4096

int main(int argc, char **argv)
{
    static const char zeroes[PAGE];
    int status;
    test_init(argc, argv);
    char *wiped = memory_map(PAGES, 0), *kept = memory_map(PAGES, 0);
    memory_fill(wiped, PAGES, 1);
    memory_fill(kept, PAGES, 2);
    MUST(madvise(wiped, PAGES * PAGE, MADV_WIPEONFORK) == 0);
    test_wait();
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        size_t differ = memory_wrong(kept, PAGES, 2);
        for (size_t page = 0; page < PAGES; page++)
            differ += memcmp(wiped + page * PAGE, zeroes, PAGE) != 0;
        _exit(differ != 0);
    }
    MUST(waitpid(pid, &status, 0) == pid);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(memory_wrong(wiped, PAGES, 1), 0);
    return test_done();
}
