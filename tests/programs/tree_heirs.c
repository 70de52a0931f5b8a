/* SPDX-License-Identifier: Apache-2.0
 * Processes that share descriptors, or directories, with none of those that have made them: siblings whose parent has left
 * them, two pairs of them; a grandchild whose parent has left; one whose parent has ended; one made by a session leader.
 */
#include "shared.h"
#include <sys/prctl.h>
#include <sys/stat.h>

enum { HELD = 150 };

static struct child made;

static int serve(char asked, void *argument)
{
    char here[4096];
    (void)argument;
    switch (asked) {
    case 'd':
        made = shared_fork(CLONE_FILES | CLONE_FS, serve, NULL);
        return 0;
    case 'u':
        CHECK(unshare(CLONE_FILES | CLONE_FS) == 0);
        return 0;
    case 'n':
        CHECK(setsid() == getpid());
        return 0;
    case 'o':
        CHECK(fcntl(HELD, F_GETFD) < 0 && dup2(0, HELD) == HELD && chdir("/") == 0);
        return 0;
    case 's':
        CHECK(fcntl(HELD, F_GETFD) >= 0 && getcwd(here, sizeof here) != NULL && strcmp(here, "/") == 0);
        return 0;
    case 'a':
        CHECK(fcntl(HELD, F_GETFD) < 0 && getcwd(here, sizeof here) != NULL && strcmp(here, "/") != 0);
        return 0;
    case 'm':
        return tree_ask(&made, 's');
    case 'q':
        CHECK(tree_end(&made) == 0);
        return 0;
    default:
        return __LINE__;
    }
}

struct pair {
    struct child one, other;
};

/* Two that share with each other, and with this one no more. */
static struct pair siblings(unsigned long flags)
{
    struct pair pair = {shared_fork(flags, serve, NULL), shared_fork(flags, serve, NULL)};
    MUST(unshare((int)flags) == 0);
    return pair;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && chdir(test_workdir) == 0);
    struct pair both = siblings(CLONE_FILES | CLONE_FS);
    struct pair files = siblings(CLONE_FILES);
    struct pair led = siblings(CLONE_FILES);
    MUST(tree_ask(&led.one, 'n') == 0);
    /* Made by the middle one, which leaves, and by one that ends: both share with this process. */
    struct child middle = shared_fork(CLONE_FILES | CLONE_FS, serve, NULL);
    MUST(tree_ask(&middle, 'd') == 0 && tree_ask(&middle, 'u') == 0);
    struct child ended = shared_fork(CLONE_FILES | CLONE_FS, serve, NULL);
    MUST(tree_ask(&ended, 'd') == 0);
    pid_t orphan = shared_first_child(ended.pid), heir = shared_first_child(middle.pid);
    MUST(tree_end(&ended) == 0);
    test_wait();
    EXPECT(shared_same(both.one.pid, both.other.pid, SHARED_FILES));
    EXPECT(shared_same(both.one.pid, both.other.pid, SHARED_FS));
    EXPECT(shared_same(files.one.pid, files.other.pid, SHARED_FILES));
    EXPECT(!shared_same(files.one.pid, files.other.pid, SHARED_FS));
    EXPECT(!shared_same(files.one.pid, both.one.pid, SHARED_FILES));
    EXPECT(!shared_same(files.one.pid, getpid(), SHARED_FILES));
    EXPECT(shared_same(led.one.pid, led.other.pid, SHARED_FILES) && getsid(led.one.pid) == led.one.pid);
    EXPECT(shared_same(heir, getpid(), SHARED_FILES) && shared_same(orphan, getpid(), SHARED_FILES));
    EXPECT(shared_same(heir, getpid(), SHARED_FS) && shared_same(orphan, getpid(), SHARED_FS));
    EXPECT(!shared_same(middle.pid, getpid(), SHARED_FILES) && !shared_same(middle.pid, getpid(), SHARED_FS));
    EXPECT_EQ(tree_ask(&both.one, 'o'), 0);
    EXPECT_EQ(tree_ask(&both.other, 's'), 0);
    EXPECT_EQ(tree_ask(&files.one, 'o'), 0);
    EXPECT_EQ(tree_ask(&files.other, 'o') == 0, 0);
    EXPECT_EQ(serve('a', NULL), 0);
    EXPECT_EQ(serve('o', NULL), 0);
    EXPECT_EQ(tree_ask(&middle, 'm'), 0);
    EXPECT_EQ(tree_ask(&middle, 'a'), 0);
    EXPECT_EQ(tree_ask(&middle, 'q'), 0);
    int status;
    MUST(kill(orphan, SIGKILL) == 0);
    EXPECT(waitpid(orphan, &status, 0) == orphan && WIFSIGNALED(status));
    EXPECT_EQ(tree_end(&middle), 0);
    struct child rest[] = {both.one, both.other, files.one, files.other, led.one, led.other};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        EXPECT_EQ(tree_end(&rest[i]), 0);
    return test_done();
}
