/* SPDX-License-Identifier: Apache-2.0
 * A private mapping of a large file, of which the program has used the first quarter only.
 */
#include "memory.h"

enum { PAGES = 1024, USED = PAGES / 4 };

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *content = memory_map(PAGES, 0);
    memory_fill(content, PAGES, 1);
    int fd = open(test_path("file"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, content, PAGES * PAGE) == (ssize_t)(PAGES * PAGE));
    MUST(munmap(content, PAGES * PAGE) == 0 && fsync(fd) == 0);
    char *area = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(area != MAP_FAILED && madvise(area, PAGES * PAGE, MADV_RANDOM) == 0 && close(fd) == 0);
    MUST(memory_wrong(area, USED, 1) == 0);
    test_wait();
    EXPECT_EQ(memory_wrong(area, PAGES, 1), 0);
    EXPECT(strcmp(memory_perms(area), "r--p") == 0);
    return test_done();
}
