/* SPDX-License-Identifier: Apache-2.0
 * Daemons that forked once more: their sessions have lost the leader, who has been reaped, or has not; and one that was
 * left by its parent in a session whose leader lives beside it.
 */
#include <sys/prctl.h>
#include "tree.h"

struct place {
    pid_t session, group, parent;
};

static struct place place(void)
{
    return (struct place){getsid(0), getpgid(0), getppid()};
}

/* 'p': remembers where it is; 'g' makes a group first; 'f' forks one more into the same session. */
static int serve(char asked, void *argument)
{
    static struct place mine;
    static struct child below;
    struct place now;
    (void)argument;
    if (asked == 'g')
        CHECK(setpgid(0, 0) == 0);
    if (asked == 'f') {
        below = tree_fork(serve, NULL);
        CHECK(tree_ask(&below, 'p') == 0);
    }
    if (asked != 'c')
        mine = place();
    now = place();
    CHECK(mine.session != getpid() && mine.session != getppid());
    CHECK(now.session == mine.session);
    CHECK(now.group == mine.group);
    CHECK(now.parent == mine.parent);
    return below.pid != 0 && asked == 'c' ? tree_ask(&below, 'c') : 0;
}

/* The leader of a session stays, and one of it is left to us by another who ends. */
static int serve_leader(char asked, void *link)
{
    const int *pair = link;
    int status;
    if (asked == 'p') {
        CHECK(setsid() == getpid());
        pid_t between = fork();
        if (between == 0) {
            if (fork() == 0)
                tree_serve(pair[1], serve, NULL);
            _exit(0);
        }
        CHECK(waitpid(between, &status, 0) == between);
    }
    CHECK(getsid(0) == getpid());
    return waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD ? 0 : __LINE__;
}

/* What daemon(3) does, twice: the children of a session's leader, who ends and leaves them to us. */
static pid_t daemons(struct child *children, int count)
{
    int links[4][2];
    for (int i = 0; i < count; i++)
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, links[i]) == 0);
    pid_t leader = fork();
    if (leader == 0) {
        MUST(setsid() == getpid());
        for (int i = 0; i < count; i++)
            if (fork() == 0)
                tree_serve(links[i][1], serve, NULL);
        _exit(7);
    }
    for (int i = 0; i < count; i++) {
        close(links[i][1]);
        children[i] = (struct child){0, links[i][0]};
    }
    return leader;
}

int main(int argc, char **argv)
{
    struct child children[5], leader;
    siginfo_t info;
    int status, pair[2];
    test_init(argc, argv);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t reaped = daemons(children, 3), dead = daemons(children + 3, 1);
    MUST(waitpid(reaped, &status, 0) == reaped && WEXITSTATUS(status) == 7);
    MUST(waitid(P_PID, (id_t)dead, &info, WEXITED | WNOWAIT) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    leader = tree_fork(serve_leader, pair);
    MUST(tree_ask(&leader, 'p') == 0);
    close(pair[1]);
    children[4] = (struct child){0, pair[0]};
    const char first[] = {'p', 'g', 'f', 'p', 'p'};
    for (int i = 0; i < 5; i++)
        MUST(tree_ask(&children[i], first[i]) == 0);
    test_wait();
    for (int i = 0; i < 5; i++)
        EXPECT_EQ(tree_ask(&children[i], 'c'), 0);
    EXPECT_EQ(tree_ask(&leader, 'c'), 0);
    EXPECT_EQ(tree_end(&leader), 0);
    EXPECT_EQ(waitpid(dead, &status, 0), dead);
    EXPECT_EQ(WEXITSTATUS(status), 7);
    EXPECT_EQ(waitpid(-1, &status, WNOHANG), 0);
    for (int i = 0; i < 5; i++) {
        EXPECT(write(children[i].link, "x", 1) == 1);
        EXPECT(waitpid(-1, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return test_done();
}
