/* SPDX-License-Identifier: Apache-2.0
 * Children, grandchildren and a thread in one of them keep their ids, their parents and memory of their own; each of them
 * goes on, and its parent can wait for it.
 */
#include "memory.h"
#include "tree.h"
#include <pthread.h>

#define CHILDREN 4
#define PAGES    64

static uint64_t *pages;
static pid_t self, parent;
static struct child grandchild;
static pthread_t thread;

static void fill(uint64_t seed)
{
    for (uint64_t i = 0; i < PAGES * 512; i++)
        pages[i] = seed * 1000003 + i;
}

static int holds(uint64_t seed)
{
    CHECK(getpid() == self);
    CHECK(parent == 0 || getppid() == parent);
    for (uint64_t i = 0; i < PAGES * 512; i++)
        CHECK(pages[i] == seed * 1000003 + i);
    return 0;
}

static void know(uint64_t seed)
{
    self = getpid();
    parent = getppid();
    fill(seed);
}

static int serve_grandchild(char asked, void *argument)
{
    uint64_t seed = (uint64_t)(uintptr_t)argument + 100;
    if (asked == 'p') {
        know(seed);
        return 0;
    }
    return holds(seed);
}

static void *run(void *argument)
{
    return (void *)(intptr_t)(syscall(SYS_gettid) != getpid() && *(pid_t *)argument == getpid());
}

static int serve(char asked, void *argument)
{
    uint64_t seed = (uint64_t)(uintptr_t)argument;
    void *result;
    if (asked == 'p') {
        know(seed);
        grandchild = tree_fork(serve_grandchild, argument);
        return tree_ask(&grandchild, 'p');
    }
    CHECK(holds(seed) == 0);
    CHECK(tree_ask(&grandchild, 'c') == 0);
    CHECK(pthread_create(&thread, NULL, run, &self) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result != NULL);
    CHECK(tree_end(&grandchild) == 0);
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
    return 0;
}

int main(int argc, char **argv)
{
    struct child children[CHILDREN];
    test_init(argc, argv);
    pages = memory_map(PAGES, 0);
    for (uintptr_t i = 0; i < CHILDREN; i++) {
        children[i] = tree_fork(serve, (void *)(i + 1));
        MUST(tree_ask(&children[i], 'p') == 0);
    }
    self = getpid();
    parent = 0; /* of the root: whoever restores it */
    fill(0);
    test_wait();
    EXPECT_EQ(holds(0), 0);
    for (int i = 0; i < CHILDREN; i++)
        EXPECT_EQ(tree_ask(&children[i], 'c'), 0);
    for (int i = 0; i < CHILDREN; i++)
        EXPECT_EQ(tree_end(&children[i]), 0);
    EXPECT(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    struct child late = tree_fork(serve_grandchild, NULL);

    EXPECT_EQ(tree_ask(&late, 'p'), 0);
    EXPECT_EQ(tree_ask(&late, 'c'), 0);
    EXPECT_EQ(tree_end(&late), 0);
    return test_done();
}
