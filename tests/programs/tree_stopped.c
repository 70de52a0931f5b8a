/* SPDX-License-Identifier: Apache-2.0
 * A stopped child stays stopped until somebody continues it.
 */
#include "tree.h"

static int stay(char asked, void *argument)
{
    (void)argument;
    return asked == 'c' ? 0 : __LINE__;
}

static char state_of(pid_t pid)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && close(fd) == 0);
    const char *end = strrchr(text, ')');
    return end != NULL ? end[2] : '?';
}

int main(int argc, char **argv)
{
    int status;
    test_init(argc, argv);
    struct child child = tree_fork(stay, NULL);
    MUST(kill(child.pid, SIGSTOP) == 0);
    MUST(waitpid(child.pid, &status, WUNTRACED) == child.pid && WIFSTOPPED(status));
    test_wait();
    EXPECT_EQ(state_of(child.pid), 'T');
    EXPECT(write(child.link, "c", 1) == 1);
    EXPECT(kill(child.pid, SIGCONT) == 0);
    int line = -1;
    EXPECT(read(child.link, &line, sizeof(line)) == sizeof(line));
    EXPECT_EQ(line, 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
