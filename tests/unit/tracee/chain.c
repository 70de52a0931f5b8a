/* SPDX-License-Identifier: Apache-2.0
 *
 * chain MICROSECONDS: a subreaper below which one process after the other forks the next and ends. Prints "ready".
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec life = {0, argc == 2 ? atol(argv[1]) * 1000 : 0};
    pid_t root = getpid();

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int inside = fork() == 0; inside;) {
        pid_t before = getpid(), next = fork(), parent = getppid();

        /* Whoever else has adopted it: the root has gone. */
        if (next != 0 || (parent != before && parent != root))
            _exit(next < 0);
        nanosleep(&life, NULL);
    }
    puts("ready");
    fflush(stdout);
    while (getpid() == root)
        if (waitpid(-1, NULL, 0) < 0)
            return 1;
}
