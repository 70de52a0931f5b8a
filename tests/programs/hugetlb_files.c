/* SPDX-License-Identifier: Apache-2.0
 * Files of a mounted hugetlbfs: with a name, mapped shared and private, and without one. */
#include "hugetlb.h"
#include <sys/mount.h>
#include <sys/stat.h>

static int create(const char *name, size_t huge_pages)
{
    int fd = open(test_path(name), O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(fd >= 0 && ftruncate(fd, (off_t)(huge_pages * HUGE_PAGE)) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    MUST(mkdir(test_path("huge"), 0700) == 0);
    MUST(mount("none", test_path("huge"), "hugetlbfs", 0, "pagesize=2M") == 0);
    int named = create("huge/named", 2), gone = create("huge/gone", 3);
    MUST(unlink(test_path("huge/gone")) == 0);
    char *shared = hugetlb_map_file(named, 2, MAP_SHARED), *own = hugetlb_map_file(named, 2, MAP_PRIVATE);
    memory_fill(shared, 2 * HUGE_PAGES, 1);
    memory_fill(own, HUGE_PAGES, 2);
    char *kept = hugetlb_map_file(gone, 3, MAP_SHARED);
    memory_fill(kept + HUGE_PAGE, HUGE_PAGES, 3);
    close(named);
    test_wait();
    EXPECT_EQ(memory_wrong(shared, 2 * HUGE_PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(own, HUGE_PAGES, 2), 0);
    EXPECT_EQ(memory_wrong_from(own + HUGE_PAGE, HUGE_PAGES, HUGE_PAGES, 1), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(kept, HUGE_PAGE), 0);
    EXPECT_EQ(memory_wrong(kept + HUGE_PAGE, HUGE_PAGES, 3), 0);
    memory_fill(kept + 2 * HUGE_PAGE, HUGE_PAGES, 4);
    char *again = hugetlb_map_file(gone, 3, MAP_SHARED);
    EXPECT_EQ(memory_wrong(again + 2 * HUGE_PAGE, HUGE_PAGES, 4), 0);
    EXPECT_EQ(hugetlb_page_kib(again), 2048);
    return test_done();
}
