/* SPDX-License-Identifier: Apache-2.0
 * Shared memory that is not there yet and is discarded: by MADV_DONTNEED, after which it holds what it held, or removed by
 * MADV_REMOVE, after which all read zeroes; by the process, by another, by a child forked meanwhile, by several at once.
 */
#include "memory.h"
#include "tree.h"
#include <pthread.h>

#define PAGES   2048
#define STEP    64
#define THREADS 4

/* Of each step of pages: who does what to 8 of them. The others stay. */
enum { DROPPED, REMOVED, DROPPED_BY_CHILD, REMOVED_BY_CHILD, REMOVED_BY_FORK, BOTH, KINDS };

static char *area;

static char *piece(size_t step, int kind)
{
    return area + (step * STEP + (size_t)kind * 8) * PAGE;
}

static int advise(size_t step, int kind, int advice)
{
    return madvise(piece(step, kind), 8 * PAGE, advice);
}

static int zero(const char *page, size_t pages)
{
    return *page == 0 && memcmp(page, page + 1, pages * PAGE - 1) == 0;
}

static int removed(int kind)
{
    return kind == REMOVED || kind == REMOVED_BY_CHILD || kind == REMOVED_BY_FORK || kind == BOTH;
}

static int is_right(size_t step, int kind)
{
    size_t first = step * STEP + (size_t)kind * 8;
    return removed(kind) ? zero(piece(step, kind), 8)
                         : memory_wrong_from(piece(step, kind), first, 8, 1) == 0;
}

static int serve(char asked, void *argument)
{
    (void)argument;
    for (size_t step = 0; asked == 'd' && step < PAGES / STEP; step++) {
        CHECK(advise(step, DROPPED_BY_CHILD, MADV_DONTNEED) == 0);
        CHECK(advise(step, REMOVED_BY_CHILD, MADV_REMOVE) == 0 && is_right(step, REMOVED_BY_CHILD));
        CHECK(is_right(step, DROPPED_BY_CHILD));
    }
    for (size_t step = 0; asked == 'l' && step < PAGES / STEP; step++)
        for (int kind = 0; kind < KINDS; kind++)
            CHECK(is_right(step, kind));
    return 0;
}

static void *discard(void *argument)
{
    for (size_t step = (size_t)argument; step < PAGES / STEP; step += THREADS) {
        EXPECT_EQ(advise(step, DROPPED, MADV_DONTNEED), 0);
        EXPECT_EQ(advise(step, REMOVED, MADV_REMOVE), 0);
        EXPECT(is_right(step, REMOVED) && is_right(step, DROPPED));
        EXPECT_EQ(advise(step, BOTH, MADV_DONTNEED), 0);
        EXPECT_EQ(advise(step, BOTH, MADV_REMOVE), 0);
        EXPECT_EQ(advise(step, BOTH, MADV_DONTNEED), 0);
    }
    return NULL;
}

static void discard_by_fork(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        for (size_t step = 0; step < PAGES / STEP; step++)
            if (advise(step, REMOVED_BY_FORK, MADV_REMOVE) != 0 || !is_right(step, REMOVED_BY_FORK))
                _exit(1);
        _exit(0);
    }
    EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    test_init(argc, argv);
    area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(area != MAP_FAILED);
    memory_fill(area, PAGES, 1);
    struct child child = tree_fork(serve, NULL);
    test_wait();
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, discard, (void *)i) == 0);
    EXPECT_EQ(tree_ask(&child, 'd'), 0);
    discard_by_fork();
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    EXPECT_EQ(tree_ask(&child, 'l'), 0);
    EXPECT_EQ(serve('l', NULL), 0);
    for (size_t step = 0; step < PAGES / STEP; step++)
        EXPECT_EQ(memory_wrong_from(area + (step * STEP + 48) * PAGE, step * STEP + 48, 16, 1), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
