/* SPDX-License-Identifier: Apache-2.0 */
/* clone_vm: a child process, not a thread, in the memory of its parent, which goes on. */
#include "test.h"
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static int asked, answered;

static int serve(void *argument)
{
    struct timespec pause = {.tv_nsec = 1000000};
    (void)argument;
    while (!__atomic_load_n(&asked, __ATOMIC_SEQ_CST))
        syscall(SYS_nanosleep, &pause, NULL);
    __atomic_store_n(&answered, asked + 1, __ATOMIC_SEQ_CST);
    return 7;
}

int main(int argc, char **argv)
{
    static char stack[65536] __attribute__((aligned(16)));
    int status;
    test_init(argc, argv);
    pid_t child = clone(serve, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    MUST(child > 0);
    test_wait();
    __atomic_store_n(&asked, 41, __ATOMIC_SEQ_CST);
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    EXPECT_EQ(answered, 42);
    return test_done();
}
