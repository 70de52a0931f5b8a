/* SPDX-License-Identifier: Apache-2.0
 * A private mapping of a large file, of which the program has used the first quarter only.
 */
#include "memory.h"

enum { PAGES = 1024, USED = PAGES / 4 };

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int fd = memory_file("file", PAGES, 1);
    MUST(fsync(fd) == 0);
    char *area = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(area != MAP_FAILED && madvise(area, PAGES * PAGE, MADV_RANDOM) == 0 && close(fd) == 0);
    MUST(memory_wrong(area, USED, 1) == 0);
    test_wait();
    EXPECT_EQ(memory_wrong(area, PAGES, 1), 0);
    EXPECT(strcmp(memory_perms(area), "r--p") == 0);
    return test_done();
}
