/* SPDX-License-Identifier: Apache-2.0
 * A stopped child stays stopped until somebody continues it.
 */
#include "tree.h"

static int stay(char asked, void *argument)
{
    (void)argument;
    return asked == 'c' ? 0 : __LINE__;
}

int main(int argc, char **argv)
{
    int status;
    test_init(argc, argv);
    struct child child = tree_fork(stay, NULL);
    MUST(kill(child.pid, SIGSTOP) == 0);
    MUST(waitpid(child.pid, &status, WUNTRACED) == child.pid && WIFSTOPPED(status));
    test_wait();
    EXPECT_EQ(tree_state(child.pid), 'T');
    EXPECT(write(child.link, "c", 1) == 1);
    EXPECT(kill(child.pid, SIGCONT) == 0);
    int line = -1;
    EXPECT(read(child.link, &line, sizeof(line)) == sizeof(line));
    EXPECT_EQ(line, 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
