/* SPDX-License-Identifier: Apache-2.0
 * Filters inherited down a tree, each process with one more than its parent; a stopped child and a zombie under them.
 */
#include "seccomp.h"
#include "tree.h"

/* The parent has getuid; the child getgid too; its own child geteuid as well. */
static int check(int depth)
{
    CHECK(seccomp_count("Seccomp_filters") == depth + 1);
    CHECK(errno_of(SYS_getuid) == 31);
    CHECK(errno_of(SYS_getgid) == (depth > 0 ? 32 : 0));
    CHECK(errno_of(SYS_geteuid) == (depth > 1 ? 33 : 0));
    return 0;
}

static int serve_grandchild(char asked, void *unused)
{
    (void)unused;
    if (asked == 'f')
        CHECK(filter_install(0, SYS_geteuid, NO(33)) == 0);
    return check(2);
}

static int serve_child(char asked, void *grandchild)
{
    struct child *below = grandchild;
    if (asked == 'f') {
        CHECK(filter_install(0, SYS_getgid, NO(32)) == 0);
        *below = tree_fork(serve_grandchild, NULL);
    }
    CHECK(tree_ask(below, asked) == 0);
    return check(1);
}

static int serve_stopped(char asked, void *unused)
{
    (void)asked, (void)unused;
    return check(0);
}

static pid_t forbidden_to_live(void)
{
    siginfo_t info;
    pid_t pid = fork();
    if (pid == 0) {
        filter_install(0, SYS_getppid, SECCOMP_RET_KILL_PROCESS);
        getppid();
        _exit(1);
    }
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return pid;
}

int main(int argc, char **argv)
{
    static struct child grandchild;
    int status;
    test_init(argc, argv);
    MUST(filter_install(0, SYS_getuid, NO(31)) == 0);
    struct child child = tree_fork(serve_child, &grandchild), stopped = tree_fork(serve_stopped, NULL);
    MUST(tree_ask(&child, 'f') == 0);
    MUST(kill(stopped.pid, SIGSTOP) == 0);
    MUST(waitpid(stopped.pid, &status, WUNTRACED) == stopped.pid && WIFSTOPPED(status));
    pid_t dead = forbidden_to_live();
    test_wait();
    EXPECT_EQ(check(0), 0);
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT_EQ(tree_state(stopped.pid), 'T');
    MUST(write(stopped.link, "c", 1) == 1 && kill(stopped.pid, SIGCONT) == 0);
    EXPECT(read(stopped.link, &status, sizeof status) == sizeof status && status == 0);
    EXPECT_EQ(waitpid(dead, &status, 0), dead);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    EXPECT_EQ(tree_end(&stopped), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
