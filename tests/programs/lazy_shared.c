/* SPDX-License-Identifier: Apache-2.0
 * Shared anonymous memory that is not there yet: processes that see different parts of it, at other places, some only to
 * read; children forked while it is missing; who writes is seen by all.
 */
#include "memory.h"
#include "tree.h"

#define PAGES 4096
#define PART  1024

static char *whole, *part, *moved, *second;

static void *map(size_t pages)
{
    void *addr = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

/* The first child sees all but PART pages in the middle, the other ends of it elsewhere; the second only reads. */
static int prepare(uintptr_t number)
{
    if (number == 0) {
        moved = mremap(whole + 2 * PART * PAGE, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                       memory_map(PART, 0));
        CHECK(moved != MAP_FAILED && munmap(whole + PART * PAGE, PART * PAGE) == 0);
        part = whole + 3 * PART * PAGE;
    } else {
        CHECK(mprotect(whole, PAGES * PAGE, PROT_READ) == 0 && munmap(whole, PART * PAGE) == 0);
    }
    CHECK(munmap(second, PAGES * PAGE) == 0);
    return 0;
}

static int look(uintptr_t number)
{
    if (number == 0) {
        CHECK(memory_wrong_from(moved, 2 * PART, PART, 1) == 0);
        CHECK(memory_wrong_from(part, 3 * PART, PART, 1) == 0);
        CHECK(memory_wrong(whole, PART - 1, 1) == 0);
        return 0;
    }
    CHECK(memory_wrong_from(whole + PART * PAGE, PART, PAGES - PART, 1) == 0);
    return 0;
}

/* By a child of the child. */
static int look_by_child(uintptr_t number)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(look(number) ? 1 : 0);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    return 0;
}

static int serve(char asked, void *argument)
{
    uintptr_t number = (uintptr_t)argument;
    if (asked == 'p')
        return prepare(number);
    if (asked == 'f')
        return look_by_child(number);
    if (asked == 'w' && number == 0)
        whole[(PART - 1) * PAGE] = 'w';
    if (asked == 'w')
        return 0;
    return look(number);
}

int main(int argc, char **argv)
{
    struct child children[2];
    test_init(argc, argv);
    whole = map(PAGES);
    second = map(PAGES);
    memory_fill(whole, PAGES, 1);
    memory_fill(second, PAGES, 2);
    for (uintptr_t i = 0; i < 2; i++) {
        children[i] = tree_fork(serve, (void *)i);
        MUST(tree_ask(&children[i], 'p') == 0);
    }
    test_wait();
    EXPECT_EQ(tree_ask(&children[0], 'f'), 0);
    for (size_t page = PAGES; page-- > PART;)
        EXPECT(memory_wrong_from(whole + page * PAGE, page, 1, 1) == 0);
    EXPECT_EQ(tree_ask(&children[1], 'f'), 0);
    EXPECT_EQ(tree_ask(&children[0], 'w'), 0);
    EXPECT_EQ(whole[(PART - 1) * PAGE], 'w');
    EXPECT_EQ(tree_ask(&children[1], 'c'), 0);
    EXPECT_EQ(tree_ask(&children[0], 'c'), 0);
    EXPECT_EQ(memory_wrong(whole, PART - 1, 1), 0);
    EXPECT_EQ(munmap(second, PART * PAGE), 0);
    EXPECT_EQ(memory_wrong_from(second + PART * PAGE, PART, PAGES - PART, 2), 0);
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(tree_end(&children[i]), 0);
    return test_done();
}
