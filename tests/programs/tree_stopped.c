/* SPDX-License-Identifier: Apache-2.0
 * Stopped children stay stopped until somebody continues them; a parent that has waited for a stop is not told of it
 * again, one that has not still can, and SIGCHLD comes for neither.
 */
#include "tree.h"
#include <signal.h>

enum { SEEN, UNSEEN, CHILDREN };

static volatile sig_atomic_t told;

static void on_child(int number)
{
    (void)number;
    told++;
}

static int stay(char asked, void *argument)
{
    (void)argument;
    return asked == 'c' ? 0 : __LINE__;
}

static void expect_goes_on(struct child *child)
{
    int line = -1;
    EXPECT_EQ(tree_state(child->pid), 'T');
    EXPECT(write(child->link, "c", 1) == 1);
    EXPECT(kill(child->pid, SIGCONT) == 0);
    EXPECT(read(child->link, &line, sizeof(line)) == sizeof(line));
    EXPECT_EQ(line, 0);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
    struct child children[CHILDREN];
    siginfo_t info;
    int status;
    test_init(argc, argv);
    MUST(sigaction(SIGCHLD, &action, NULL) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = tree_fork(stay, NULL);
        MUST(kill(children[i].pid, SIGSTOP) == 0);
        MUST(waitid(P_PID, (id_t)children[i].pid, &info, WSTOPPED | (i == UNSEEN ? WNOWAIT : 0)) == 0);
    }
    while (told < CHILDREN)
        usleep(1000);
    told = 0;
    test_wait();
    EXPECT_EQ(told, 0);
    EXPECT_EQ(waitpid(children[SEEN].pid, &status, WUNTRACED | WNOHANG), 0);
    EXPECT_EQ(waitpid(children[UNSEEN].pid, &status, WUNTRACED | WNOHANG), children[UNSEEN].pid);
    EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    for (int i = 0; i < CHILDREN; i++)
        expect_goes_on(&children[i]);
    for (int i = 0; i < CHILDREN; i++)
        EXPECT_EQ(tree_end(&children[i]), 0);
    return test_done();
}
