/* SPDX-License-Identifier: Apache-2.0 */
/* vfork: a child that vfork(2) has made and that has neither called exec nor ended; its parent waits for that. */
#include <sys/wait.h>
#include "test.h"

int main(int argc, char **argv)
{
    int status;
    test_init(argc, argv);
    pid_t child = vfork();
    if (child == 0) {
        test_wait();
        _exit(7);
    }
    MUST(child > 0);
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    return test_done();
}
