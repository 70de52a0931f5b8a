/* SPDX-License-Identifier: Apache-2.0 */
/* Shared anonymous memory: protections, holes, a part moved, a part mapped twice, a child that shares it later. */
#include "memory.h"
#include <sys/wait.h>

#define PAGES 64

static char *map(size_t pages)
{
    char *addr = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *plain = map(PAGES), *cut = map(PAGES), *moved = map(PAGES), *away = memory_map(8, 0),
         *untouched = map(3);
    memory_fill(plain, PAGES, 1);
    memory_fill(cut, PAGES, 2);
    memory_fill(moved, PAGES, 3);
    MUST(mprotect(plain + 4 * PAGE, 2 * PAGE, PROT_READ) == 0);
    MUST(mprotect(plain + 9 * PAGE, PAGE, PROT_NONE) == 0);
    MUST(munmap(cut, 5 * PAGE) == 0 && munmap(cut + 30 * PAGE, PAGE) == 0);
    MUST(mremap(moved + 8 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away);
    char *twice = mremap(plain, 0, 4 * PAGE, MREMAP_MAYMOVE);
    MUST(twice != MAP_FAILED && mlock(cut + 10 * PAGE, PAGE) == 0);
    test_wait();
    EXPECT(strcmp(memory_perms(plain), "rw-s") == 0 && strcmp(memory_perms(plain + 5 * PAGE), "r--s") == 0);
    EXPECT(strcmp(memory_perms(plain + 9 * PAGE), "---s") == 0);
    EXPECT_EQ(mprotect(plain + 9 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    EXPECT_EQ(memory_wrong(plain, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong_from(cut + 5 * PAGE, 5, 25, 2), 0);
    EXPECT_EQ(memory_wrong_from(cut + 31 * PAGE, 31, PAGES - 31, 2), 0);
    EXPECT(strcmp(memory_perms(cut + 30 * PAGE), "") == 0 && memory_flag(cut + 10 * PAGE, "lo"));
    EXPECT_EQ(memory_wrong(moved, 8, 3), 0);
    EXPECT_EQ(memory_wrong_from(away, 8, 8, 3), 0);
    EXPECT_EQ(memory_wrong_from(moved + 16 * PAGE, 16, PAGES - 16, 3), 0);
    plain[PAGE + 1] = 'q';
    EXPECT_EQ(twice[PAGE + 1], 'q');
    EXPECT_EQ(untouched[PAGE], 0);
    pid_t child = fork();
    if (child == 0) {
        untouched[0] = 'c';
        _exit(0);
    }
    EXPECT(child > 0 && waitpid(child, NULL, 0) == child);
    EXPECT_EQ(untouched[0], 'c');
    return test_done();
}
