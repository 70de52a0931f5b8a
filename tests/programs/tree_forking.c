/* SPDX-License-Identifier: Apache-2.0
 * A process that forks all the time: each child checks what it was given, and every one of them is waited for.
 */
#include "memory.h"
#include "tree.h"

#define PAGES 16
#define ALIVE 4

static uint64_t *pages;

static pid_t fork_one(uint64_t seed)
{
    memory_fill(pages, PAGES, seed);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0)
        _exit(memory_wrong(pages, PAGES, seed) == 0 ? (int)(seed % 100) : 101);
    return pid;
}

int main(int argc, char **argv)
{
    pid_t alive[ALIVE] = {0};
    uint64_t seeds[ALIVE] = {0}, seed = 0;
    int status;
    test_init(argc, argv);
    pages = memory_map(PAGES, 0);
    test_ready();
    for (int extra = 0; extra < 50; extra += test_may_go()) {
        int slot = (int)(seed % ALIVE);
        if (alive[slot] != 0) {
            MUST(waitpid(alive[slot], &status, 0) == alive[slot]);
            EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == (int)(seeds[slot] % 100));
        }
        seeds[slot] = seed;
        alive[slot] = fork_one(seed++);
    }
    for (int slot = 0; slot < ALIVE; slot++)
        EXPECT(waitpid(alive[slot], &status, 0) == alive[slot] &&
               WEXITSTATUS(status) == (int)(seeds[slot] % 100));
    EXPECT(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
    return test_done();
}
