/* SPDX-License-Identifier: Apache-2.0
 * Memory that processes share stays shared, in both directions: anonymous, by memfd, by an unlinked file; what they have
 * only copied stays their own.
 */
#include "memory.h"
#include "tree.h"
#include <sys/stat.h>

#define PAGES   64
#define SHARERS 3

static uint64_t *anonymous, *by_memfd, *by_file, *private, *own;
static int memfd;

static int serve(char asked, void *argument)
{
    uint64_t number = (uint64_t)(uintptr_t)argument;
    if (asked == 'p') {
        private[number] = number + 1;
        memory_fill(own, PAGES, number);
        return 0;
    }
    if (asked == 'w') {
        for (size_t i = 0; i < PAGES; i++) {
            anonymous[i * 512 + number] += 1000 * (number + 1);
            by_memfd[i * 512 + number] += 1000 * (number + 1);
            by_file[i * 512 + number] += 1000 * (number + 1);
        }
        return 0;
    }
    for (uint64_t i = 0; i < SHARERS; i++)
        CHECK(private[i] == (i == number ? i + 1 : 77));
    CHECK(memory_wrong(own, PAGES, number) == 0);
    struct stat status;
    CHECK(fstat(memfd, &status) == 0 && status.st_size == PAGES * 4096);
    CHECK(ftruncate(memfd, 4096) == -1 && errno == EPERM);
    return 0;
}

static void *map_shared(int fd, int flags)
{
    void *addr = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
    MUST(addr != MAP_FAILED);
    return addr;
}

static int make_file(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", test_path("shared"));
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(fd >= 0 && ftruncate(fd, PAGES * 4096) == 0 && unlink(path) == 0);
    return fd;
}

static int all_are(uint64_t factor)
{
    for (size_t i = 0; i < PAGES; i++)
        for (uint64_t k = 0; k < SHARERS; k++) {
            uint64_t expected = i * 512 + k + factor * 1000 * (k + 1);
            if (anonymous[i * 512 + k] != expected || by_memfd[i * 512 + k] != expected ||
                by_file[i * 512 + k] != expected)
                return 0;
        }
    return 1;
}

int main(int argc, char **argv)
{
    struct child children[SHARERS];
    test_init(argc, argv);
    memfd = memfd_create("shared", MFD_ALLOW_SEALING);
    MUST(memfd >= 0 && ftruncate(memfd, PAGES * 4096) == 0 && fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    anonymous = map_shared(-1, MAP_ANONYMOUS);
    by_memfd = map_shared(memfd, 0);
    int file = make_file();
    by_file = map_shared(file, 0);
    MUST(close(file) == 0);
    private = memory_map(1, 0);
    own = memory_map(PAGES, 0);
    for (size_t i = 0; i < PAGES * 512; i++)
        anonymous[i] = by_memfd[i] = by_file[i] = i;
    for (int i = 0; i < SHARERS; i++)
    private[i] = 77;
    for (uintptr_t i = 0; i < SHARERS; i++) {
        children[i] = tree_fork(serve, (void *)i);
        MUST(tree_ask(&children[i], 'p') == 0 && tree_ask(&children[i], 'w') == 0);
    }
    MUST(all_are(1));
    test_wait();
    EXPECT(all_are(1));
    for (int i = 0; i < SHARERS; i++) {
        EXPECT_EQ(private[i], 77);
        EXPECT_EQ(tree_ask(&children[i], 'c'), 0);
        EXPECT_EQ(tree_ask(&children[i], 'w'), 0);
    }
    EXPECT(all_are(2));
    for (int i = 0; i < SHARERS; i++)
        EXPECT_EQ(tree_end(&children[i]), 0);
    return test_done();
}
