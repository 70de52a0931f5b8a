/* SPDX-License-Identifier: Apache-2.0
 * A subreaper keeps the orphan that has come to it, and gets those that come later. Other processes of the tree do not see
 * who brings their memory.
 */
#include "tree.h"
#include <sys/prctl.h>

static struct child inner;

static int stay(char asked, void *argument)
{
    (void)argument;
    CHECK(asked == 'c');
    return 0;
}

static int orphan(char asked, void *argument)
{
    if (asked == 'p') {
        inner = tree_fork(stay, argument);
        return 0;
    }
    CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == 0);
    return tree_ask(&inner, 'c');
}

int main(int argc, char **argv)
{
    int is_subreaper = 0, status;
    test_init(argc, argv);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    struct child first = tree_fork(orphan, NULL), second = tree_fork(orphan, NULL);
    MUST(tree_ask(&first, 'p') == 0 && tree_ask(&second, 'p') == 0);
    MUST(tree_end(&first) == 0);
    test_wait();
    EXPECT(prctl(PR_GET_CHILD_SUBREAPER, &is_subreaper) == 0 && is_subreaper);
    EXPECT_EQ(tree_ask(&second, 'c'), 0);
    EXPECT_EQ(tree_end(&second), 0);
    /* Both grandchildren end by the end of the links that their parents held. */
    pid_t one = wait(&status), other = wait(&status);
    EXPECT(one > 0 && other > 0 && one != other);
    EXPECT(wait(NULL) == -1 && errno == ECHILD);
    return test_done();
}
