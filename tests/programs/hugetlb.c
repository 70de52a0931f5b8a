/* SPDX-License-Identifier: Apache-2.0
 * Huge pages of hugetlbfs: private ones with every protection, reserved or not, and shared ones, also with a child. */
#include "hugetlb.h"
#include "tree.h"

static char *shared;

static int serve(char asked, void *argument)
{
    (void)argument;
    CHECK(memory_wrong(shared + HUGE_PAGE, HUGE_PAGES, 7) == 0);
    if (asked == 'w')
        memory_fill(shared, HUGE_PAGES, 8);
    return 0;
}

/* One page is full, one untouched, one nearly empty, one written with zeros. */
static char *set_up_private(void)
{
    char *addr = hugetlb_map(4, MAP_PRIVATE);
    memory_fill(addr, HUGE_PAGES, 1);
    memory_fill(addr + 2 * HUGE_PAGE + 100 * PAGE, 1, 2);
    memset(addr + 3 * HUGE_PAGE, 0, HUGE_PAGE);
    return addr;
}

static void check_private(char *addr)
{
    EXPECT_EQ(memory_wrong(addr, HUGE_PAGES, 1), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(addr + HUGE_PAGE, HUGE_PAGE + 100 * PAGE), 0);
    EXPECT_EQ(memory_wrong(addr + 2 * HUGE_PAGE + 100 * PAGE, 1, 2), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(addr + 2 * HUGE_PAGE + 101 * PAGE, 2 * HUGE_PAGE - 101 * PAGE), 0);
    EXPECT_EQ(hugetlb_page_kib(addr), 2048);
    EXPECT(memory_flag(addr, "ht") && !memory_flag(addr, "nr"));
    memory_fill(addr + HUGE_PAGE, HUGE_PAGES, 3); /* it was reserved */
    EXPECT_EQ(memory_wrong(addr + HUGE_PAGE, HUGE_PAGES, 3), 0);
}

static char *set_up_protected(int prot, uint64_t seed)
{
    char *addr = hugetlb_map(1, MAP_PRIVATE);
    memory_fill(addr, HUGE_PAGES, seed);
    MUST(mprotect(addr, HUGE_PAGE, prot) == 0);
    return addr;
}

/* Pages of the greatest size that the kernel has, of which the pool need not have any. */
static char *set_up_gigantic(void)
{
    if (access("/sys/kernel/mm/hugepages/hugepages-1048576kB", F_OK) != 0)
        return NULL;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | HUGE_1G_FLAG;
    char *addr = mmap(NULL, (size_t)2 << 30, PROT_READ | PROT_WRITE, flags, -1, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

/* A private mapping of it, with one page of its own. */
static char *set_up_file(int *file, char **own)
{
    *file = (int)syscall(SYS_memfd_create, "huge", MFD_HUGETLB | MFD_ALLOW_SEALING | HUGE_2M_FLAG);
    MUST(*file >= 0 && ftruncate(*file, 3 * HUGE_PAGE) == 0);
    char *addr = hugetlb_map_file(*file, 3, MAP_SHARED);
    memory_fill(addr, HUGE_PAGES, 9);
    MUST(fcntl(*file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    *own = hugetlb_map_file(*file, 3, MAP_PRIVATE);
    memory_fill(*own + HUGE_PAGE, HUGE_PAGES, 10);
    return addr;
}

static void check_file(int file, char *addr, char *own)
{
    static char page[PAGE];
    EXPECT_EQ(fcntl(file, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    EXPECT_EQ(lseek(file, 0, SEEK_END), 3 * HUGE_PAGE);
    EXPECT_EQ(pread(file, page, PAGE, 2 * PAGE), PAGE);
    EXPECT_EQ(memory_wrong_from(page, 2, 1, 9), 0);
    EXPECT_EQ(memory_wrong(addr, HUGE_PAGES, 9), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(addr + HUGE_PAGE, 2 * HUGE_PAGE), 0);
    EXPECT_EQ(memory_wrong(own, HUGE_PAGES, 9), 0);
    EXPECT_EQ(memory_wrong(own + HUGE_PAGE, HUGE_PAGES, 10), 0);
    EXPECT_EQ(hugetlb_page_kib(addr), 2048);
    memory_fill(addr + 2 * HUGE_PAGE, HUGE_PAGES, 11);
    EXPECT_EQ(memory_wrong(own + 2 * HUGE_PAGE, HUGE_PAGES, 11), 0); /* one file still */
}

int main(int argc, char **argv)
{
    int file;
    char *own;
    test_init(argc, argv);
    shared = hugetlb_map(3, MAP_SHARED);
    memory_fill(shared + HUGE_PAGE, HUGE_PAGES, 7);
    struct child child = tree_fork(serve, NULL);
    char *reserved = set_up_private();
    char *readable = set_up_protected(PROT_READ, 4), *hidden = set_up_protected(PROT_NONE, 5);
    char *loose = hugetlb_map(64, MAP_PRIVATE | MAP_NORESERVE);
    memory_fill(loose + HUGE_PAGE, HUGE_PAGES, 6);
    char *gigantic = set_up_gigantic();
    char *addr = set_up_file(&file, &own);
    test_wait();
    check_private(reserved);
    EXPECT_EQ(memory_wrong(readable, HUGE_PAGES, 4), 0);
    EXPECT(strcmp(memory_perms(readable), "r--p") == 0 && strcmp(memory_perms(hidden), "---p") == 0);
    EXPECT(mprotect(hidden, HUGE_PAGE, PROT_READ | PROT_WRITE) == 0);
    EXPECT_EQ(memory_wrong(hidden, HUGE_PAGES, 5), 0);
    EXPECT(memory_flag(loose, "nr") && memory_flag(loose, "ht"));
    EXPECT_EQ(memory_wrong(loose + HUGE_PAGE, HUGE_PAGES, 6), 0);
    if (gigantic)
        EXPECT_EQ(hugetlb_page_kib(gigantic), 1048576);
    check_file(file, addr, own);
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT_EQ(memory_wrong(shared, HUGE_PAGES, 8), 0);
    EXPECT_EQ(memory_wrong(shared + HUGE_PAGE, HUGE_PAGES, 7), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(shared + 2 * HUGE_PAGE, HUGE_PAGE), 0);
    EXPECT_EQ(hugetlb_page_kib(shared), 2048);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
