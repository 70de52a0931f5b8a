/* SPDX-License-Identifier: Apache-2.0
 * A small parent and a child with much memory, which takes longer to come back.
 */
#include "memory.h"
#include "tree.h"

#define PAGES 32768

static int serve(char asked, void *argument)
{
    char *memory = argument;
    if (asked == 'f')
        memory_fill(memory, PAGES, 1);
    CHECK(memory_wrong(memory, PAGES, 1) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    struct child child = tree_fork(serve, memory_map(PAGES, 0));
    MUST(tree_ask(&child, 'f') == 0);
    test_wait();
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
