/* SPDX-License-Identifier: Apache-2.0
 * A private file mapping: pages of the file, pages written over, one of them with zeroes, and beyond the end. */
#include "memory.h"

#define PAGES 48

static void check(const char *area, const char *readonly)
{
    for (size_t i = 0; i < PAGES; i++) {
        if (i == 5)
            EXPECT_EQ(memory_wrong(area + i * PAGE, 1, 1000), 0);
        else if (i == 9)
            EXPECT(area[i * PAGE] == 0 && memcmp(area + i * PAGE, area + i * PAGE + 1, PAGE - 1) == 0);
        else
            EXPECT_EQ(memory_wrong_from(area + i * PAGE, i, 1, 1), 0);
        EXPECT_EQ(memory_wrong_from(readonly + i * PAGE, i == 20 ? 0 : i, 1, i == 20 ? 2000 : 1), 0);
    }
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int fd = memory_file("file", PAGES, 1);
    char *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *readonly = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    MUST(area != MAP_FAILED && readonly != MAP_FAILED && close(fd) == 0);
    memory_fill(area + 5 * PAGE, 1, 1000);
    memset(area + 9 * PAGE, 0, PAGE);
    memory_fill(readonly + 20 * PAGE, 1, 2000);
    MUST(mprotect(readonly, PAGES * PAGE, PROT_READ) == 0);
    test_wait();
    check(area, readonly);
    EXPECT(strcmp(memory_perms(area), "rw-p") == 0);
    EXPECT(strcmp(memory_perms(readonly), "r--p") == 0);
    area[0] ^= 1; /* writing is private still */
    char first;
    fd = open(test_path("file"), O_RDONLY);
    MUST(fd >= 0 && read(fd, &first, 1) == 1);
    EXPECT_EQ(first ^ 1, area[0]);
    return test_done();
}
