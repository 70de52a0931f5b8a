/* SPDX-License-Identifier: Apache-2.0
 * A shared file mapping shows the file, at an offset, and writes go through to it; a read-only one beside it. */
#include "memory.h"

#define PAGES 16

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char back;
    int fd = memory_file("file", PAGES, 1);
    char *shared = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * PAGE);
    char *readonly = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    MUST(shared != MAP_FAILED && readonly != MAP_FAILED && close(fd) == 0);
    test_wait();
    EXPECT_EQ(memory_wrong_from(shared, 4, 8, 1), 0);
    EXPECT_EQ(memory_wrong(readonly, PAGES, 1), 0);
    EXPECT(strcmp(memory_perms(shared), "rw-s") == 0);
    EXPECT(strcmp(memory_perms(readonly), "r--s") == 0);
    shared[5] = 99;
    EXPECT_EQ(readonly[4 * PAGE + 5], 99);
    fd = open(test_path("file"), O_RDONLY);
    MUST(fd >= 0 && pread(fd, &back, 1, 4 * PAGE + 5) == 1);
    EXPECT_EQ(back, 99);
    return test_done();
}
