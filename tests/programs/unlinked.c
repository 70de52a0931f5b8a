/* SPDX-License-Identifier: Apache-2.0 */
/* Unlinked files: content with holes, offset, mode, times, one opened twice, one made by O_TMPFILE, mapped ones. */
#include "memory.h"
#include <sys/stat.h>
#include <sys/xattr.h>

#define PAGES 40
#define FAR   (1L << 30)

static char *text = "what has no name any more\n";

static int make(const char *name, int flags)
{
    int fd = open(test_path(name), flags | O_CREAT | O_EXCL, 0640);
    MUST(fd >= 0);
    return fd;
}

static void expect_text(int fd, off_t at)
{
    char found[64] = {0};
    EXPECT_EQ(pread(fd, found, strlen(text), at), strlen(text));
    EXPECT(strcmp(found, text) == 0);
}

static void expect_link(int fd, const char *suffix)
{
    char path[64], link[4096] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    EXPECT(readlink(path, link, sizeof link - 1) > 0);
    EXPECT(strstr(link, suffix) != NULL);
}

int main(int argc, char **argv)
{
    struct stat before, after;
    struct timespec times[2] = {{1000, 5}, {2000, 7}};
    char found[64] = {0};
    test_init(argc, argv);
    int plain = make("plain", O_RDWR | O_APPEND | O_CLOEXEC), reader = open(test_path("plain"), O_RDONLY);
    int sparse = make("sparse", O_RDWR), empty = make("empty", O_WRONLY), mapped = make("mapped", O_RDWR);
    int temporary = open(test_workdir, O_TMPFILE | O_RDWR, 0600), copy = dup(plain);
    MUST(reader >= 0 && temporary >= 0 && copy >= 0);
    MUST(write(plain, text, strlen(text)) > 0 && lseek(reader, 5, SEEK_SET) == 5);
    MUST(fchmod(plain, 04751) == 0 && fchown(plain, 12, 34) == 0 && fchmod(plain, 04751) == 0);
    MUST(fsetxattr(plain, "user.note", "kept", 4, 0) == 0 || errno == EOPNOTSUPP);
    MUST(futimens(plain, times) == 0);
    MUST(pwrite(sparse, text, strlen(text), 70000) > 0 && pwrite(sparse, text, strlen(text), FAR + 3) > 0);
    MUST(write(temporary, text, strlen(text)) > 0);
    MUST(ftruncate(mapped, PAGES * PAGE) == 0);
    char *shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
    MUST(shared != MAP_FAILED);
    memory_fill(shared, PAGES, 1);
    char *private = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, mapped, 0);
    MUST(private != MAP_FAILED);
    private[PAGE] = 'x';
    MUST(unlink(test_path("plain")) == 0 && unlink(test_path("sparse")) == 0);
    MUST(unlink(test_path("empty")) == 0 && unlink(test_path("mapped")) == 0 && close(mapped) == 0);
    MUST(fstat(sparse, &before) == 0);
    test_wait();
    EXPECT_EQ(read(reader, found, 5), 5);
    EXPECT(memcmp(found, text + 5, 5) == 0);
    EXPECT_EQ(fstat(plain, &after), 0);
    EXPECT_EQ(after.st_mode, S_IFREG | 04751);
    EXPECT_EQ(after.st_mtim.tv_sec * 10 + after.st_mtim.tv_nsec, 20007);
    EXPECT(after.st_uid == 12 && after.st_gid == 34 && after.st_nlink == 0);
    EXPECT(fgetxattr(plain, "user.note", found, sizeof found) == 4 || errno == EOPNOTSUPP);
    EXPECT_EQ(fcntl(plain, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(plain, F_GETFL) & (O_APPEND | O_ACCMODE), O_APPEND | O_RDWR);
    EXPECT_EQ(write(copy, "more", 4), 4);
    EXPECT_EQ(pread(reader, found, 4, strlen(text)), 4);
    EXPECT(memcmp(found, "more", 4) == 0 && lseek(plain, 0, SEEK_CUR) == (off_t)strlen(text) + 4);
    expect_text(sparse, 70000);
    expect_text(sparse, FAR + 3);
    EXPECT_EQ(fstat(sparse, &after), 0);
    EXPECT(after.st_size == before.st_size && after.st_blocks < before.st_blocks + 64);
    EXPECT(fstat(empty, &after) == 0 && after.st_size == 0 && write(empty, "x", 1) == 1);
    expect_text(temporary, 0);
    expect_link(temporary, "/#");
    EXPECT_EQ(fcntl(temporary, F_GETFL) & O_TMPFILE, O_TMPFILE);
    snprintf(found, sizeof found, "/proc/self/fd/%d", temporary);
    EXPECT_EQ(linkat(AT_FDCWD, found, AT_FDCWD, test_path("linked"), AT_SYMLINK_FOLLOW), 0);
    EXPECT_EQ(private[PAGE], 'x');
    private[PAGE] = shared[PAGE];
    EXPECT_EQ(memory_wrong(shared, PAGES, 1), 0);
    EXPECT_EQ(memory_wrong(private, PAGES, 1), 0);
    shared[0] ^= 1;
    EXPECT_EQ(shared[0], private[0]);
    return test_done();
}
