/* SPDX-License-Identifier: Apache-2.0 */
/* memfds: name, size, content, offset, seals; mapped by one that is closed, sealed before and after mapping. */
#include "memory.h"
#include <sys/stat.h>

#define PAGES 50

static int make(const char *name, unsigned flags, size_t pages)
{
    int fd = memfd_create(name, flags);
    MUST(fd >= 0 && ftruncate(fd, pages * PAGE) == 0);
    return fd;
}

static void *map(int fd, int prot, int flags, size_t first, size_t pages)
{
    void *addr = mmap(NULL, pages * PAGE, prot, flags, fd, first * PAGE);
    MUST(addr != MAP_FAILED);
    return addr;
}

static int refuses_write(int fd)
{
    return pwrite(fd, "x", 1, 0) < 0 && errno == EPERM;
}

int main(int argc, char **argv)
{
    char link[64] = {0}, path[64];
    struct stat status;
    test_init(argc, argv);
    int open_fd = make("left open", MFD_CLOEXEC | MFD_ALLOW_SEALING, PAGES), copy = dup(open_fd);
    char *mapped = map(open_fd, PROT_READ | PROT_WRITE, MAP_SHARED, 0, PAGES);
    memory_fill(mapped, PAGES, 1);
    char *part = map(open_fd, PROT_READ, MAP_SHARED, 20, 7);
    MUST(lseek(open_fd, 12345, SEEK_SET) == 12345 && copy >= 0);
    int closed = make("closed", 0, PAGES);
    char *only = map(closed, PROT_READ | PROT_WRITE, MAP_SHARED, 0, PAGES);
    char *private = map(closed, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, PAGES);
    memory_fill(only, PAGES, 2);
    private[PAGE] = 'p';
    MUST(close(closed) == 0);
    int sealed = make("sealed", MFD_ALLOW_SEALING, 3), future = make("future", MFD_ALLOW_SEALING, 3);
    MUST(pwrite(sealed, "never", 5, PAGE) == 5);
    char *before = map(future, PROT_READ | PROT_WRITE, MAP_SHARED, 0, 3);
    MUST(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
    MUST(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    char *readable = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, sealed, PAGE);
    int empty = memfd_create("", 0), odd = make("odd", 0, 0);
    MUST(empty >= 0 && odd >= 0 && pwrite(odd, "tail", 4, 2 * PAGE + 7) == 4 && fchmod(odd, 0640) == 0);
    test_wait();
    EXPECT_EQ(memory_wrong(mapped, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong_from(part, 20, 7, 1), 0);
    EXPECT(pwrite(open_fd, "fresh", 5, 21 * PAGE) == 5 && memcmp(part + PAGE, "fresh", 5) == 0);
    EXPECT_EQ(lseek(copy, 0, SEEK_CUR), 12345);
    EXPECT_EQ(fcntl(open_fd, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(open_fd, F_GET_SEALS), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", open_fd);
    EXPECT(readlink(path, link, sizeof link - 1) > 0 && strcmp(link, "/memfd:left open (deleted)") == 0);
    EXPECT_EQ(memory_wrong(only, PAGES, 2), 0);
    EXPECT_EQ(private[PAGE], 'p');
    only[0] ^= 1;
    EXPECT_EQ(only[0], private[0]);
    EXPECT_EQ(fcntl(sealed, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    EXPECT(refuses_write(sealed) && refuses_write(future));
    EXPECT_EQ(fcntl(future, F_GET_SEALS), F_SEAL_FUTURE_WRITE);
    before[0] = 'w';
    EXPECT(readable == MAP_FAILED || memcmp(readable, "never", 5) == 0);
    EXPECT(fstat(empty, &status) == 0 && status.st_size == 0);
    EXPECT_EQ(fcntl(empty, F_GET_SEALS), F_SEAL_SEAL);
    EXPECT(fstat(odd, &status) == 0 && status.st_size == 2 * PAGE + 11 && (status.st_mode & 0777) == 0640);
    EXPECT(pread(odd, link, 4, 2 * PAGE + 7) == 4 && memcmp(link, "tail", 4) == 0);
    return test_done();
}
