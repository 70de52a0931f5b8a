/* SPDX-License-Identifier: Apache-2.0
 * MADV_WIPEONFORK and MADV_KEEPONFORK while pages are missing, on parts of mappings too: a child forked then, and one of its own,
 * reads zeroes where the advice holds by then, and what its parent wrote elsewhere. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES 1024
#define HALF  (PAGES / 2)

static char *late, *kept;

static size_t not_zero(const char *pages, size_t count)
{
    static const char zeroes[PAGE];
    size_t differ = 0;
    for (size_t page = 0; page < count; page++)
        differ += memcmp(pages + page * PAGE, zeroes, PAGE) != 0;
    return differ;
}

static int wrong(void)
{
    int found = 0;
    found |= memory_wrong(late, HALF, 1) != 0;
    found |= (not_zero(late + HALF * PAGE, HALF) != 0) << 1;
    found |= (memory_wrong(kept, HALF, 2) != 0) << 2;
    found |= (not_zero(kept + HALF * PAGE, HALF) != 0) << 3;
    return found;
}

static int forked(int depth)
{
    int status;
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0)
        _exit((depth ? forked(depth - 1) : 0) | wrong());
    MUST(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1 << 7;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    late = memory_map(PAGES, 0);
    kept = memory_map(PAGES, 0);
    memory_fill(late, HALF, 1);
    memory_fill(late + HALF * PAGE, HALF, 3);
    memory_fill(kept, HALF, 2);
    memory_fill(kept + HALF * PAGE, HALF, 4);
    MUST(madvise(kept, PAGES * PAGE, MADV_WIPEONFORK) == 0);
    test_wait();
    MUST(madvise(late + HALF * PAGE, HALF * PAGE, MADV_WIPEONFORK) == 0);
    MUST(madvise(kept, HALF * PAGE, MADV_KEEPONFORK) == 0);
    EXPECT_EQ(forked(1), 0);
    EXPECT_EQ(memory_wrong(late, HALF, 1), 0);
    EXPECT_EQ(memory_wrong(late + HALF * PAGE, HALF, 3), 0);
    EXPECT_EQ(memory_wrong(kept, HALF, 2), 0);
    EXPECT_EQ(memory_wrong(kept + HALF * PAGE, HALF, 4), 0);
    return test_done();
}
