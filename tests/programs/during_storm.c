/* SPDX-License-Identifier: Apache-2.0
 * A thread touches pages at random, without a pause, so that the pager installs with two threads. Meanwhile others discard,
 * unmap and move pages that lie between those, in the same chunks, and fork children that look at them: nothing comes where
 * it no longer belongs. */
#include "memory.h"
#include <pthread.h>
#include <sys/wait.h>

#define UNIT     8 /* pages: the first 3 are touched, then 2 discarded, 1 unmapped, 2 moved */
#define UNITS    1536
#define DISCARD  3
#define UNMAP    5
#define MOVE     6
#define CHILDREN 4

static char *area, *aside;
static size_t wrong, wrong_zero, wrong_moved, wrong_child;

static char *page_at(size_t unit, size_t page)
{
    return area + (unit * UNIT + page) * PAGE;
}

/* All units, each thread in an order of its own. */
static size_t unit_of(size_t i, size_t step)
{
    return i * step % UNITS;
}

static size_t not_zero(size_t unit)
{
    size_t found = 0;
    for (size_t at = 0; at < 2 * PAGE; at += 512)
        found += *(volatile uint64_t *)(page_at(unit, DISCARD) + at) != 0;
    return found;
}

static size_t wrong_touched(size_t unit)
{
    return memory_wrong_from(page_at(unit, 0), unit * UNIT, DISCARD, 1);
}

static void *touch(void *argument)
{
    for (size_t i = 0; i < UNITS; i++)
        wrong += wrong_touched(unit_of(i, 769));
    return argument;
}

static void *discard(void *argument)
{
    for (size_t i = 0; i < UNITS; i++) {
        size_t unit = unit_of(i, 605);
        MUST(madvise(page_at(unit, DISCARD), 2 * PAGE, MADV_DONTNEED) == 0);
        wrong_zero += not_zero(unit);
    }
    return argument;
}

static void *move(void *argument)
{
    for (size_t i = 0; i < UNITS; i++) {
        size_t unit = unit_of(i, 1021);
        char *to = aside + unit * 2 * PAGE;
        MUST(munmap(page_at(unit, UNMAP), PAGE) == 0);
        MUST(mremap(page_at(unit, MOVE), 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        wrong_moved += memory_wrong_from(to, unit * UNIT + MOVE, 2, 1);
    }
    return argument;
}

/* Children look at what nobody changes. */
static void *fork_now_and_then(void *argument)
{
    for (size_t child = 0; child < CHILDREN; child++) {
        int status;
        pid_t pid = fork();
        MUST(pid >= 0);
        if (pid == 0) {
            size_t found = 0;
            for (size_t unit = child; unit < UNITS; unit += 16)
                found += wrong_touched(unit);
            _exit(found != 0);
        }
        MUST(waitpid(pid, &status, 0) == pid);
        wrong_child += status != 0;
    }
    return argument;
}

int main(int argc, char **argv)
{
    void *(*const all[])(void *) = {touch, discard, move, fork_now_and_then};
    pthread_t threads[4];
    size_t unmapped = 0, late_wrong = 0, late_not_zero = 0, late_moved = 0;
    test_init(argc, argv);
    area = memory_map(UNITS * UNIT, 0);
    memory_fill(area, UNITS * UNIT, 1);
    aside = mmap(NULL, UNITS * 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(aside != MAP_FAILED);
    test_wait();
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&threads[i], NULL, all[i], NULL) == 0);
    for (int i = 0; i < 4; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    for (size_t unit = 0; unit < UNITS; unit++) {
        unsigned char resident;
        late_wrong += wrong_touched(unit);
        late_not_zero += not_zero(unit);
        late_moved += memory_wrong_from(aside + unit * 2 * PAGE, unit * UNIT + MOVE, 2, 1);
        unmapped += mincore(page_at(unit, UNMAP), PAGE, &resident) != 0;
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(wrong_zero, 0);
    EXPECT_EQ(wrong_moved, 0);
    EXPECT_EQ(wrong_child, 0);
    EXPECT_EQ(late_wrong, 0);
    EXPECT_EQ(late_not_zero, 0);
    EXPECT_EQ(late_moved, 0);
    EXPECT_EQ(unmapped, UNITS);
    return test_done();
}
