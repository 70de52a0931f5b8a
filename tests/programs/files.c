/* SPDX-License-Identifier: Apache-2.0 */
/* files: offsets, flags, O_APPEND, O_PATH, a shared offset, a file that grows meanwhile. */
#define _GNU_SOURCE
#include <sys/stat.h>
#include "test.h"

static int make(const char *name, int flags)
{
    int fd = open(test_path(name), flags | O_CREAT, 0640);
    MUST(fd >= 0);
    return fd;
}

static void expect_content(const char *name, const char *content)
{
    char now[256] = "";
    int fd = open(test_path(name), O_RDONLY);
    EXPECT(fd >= 0 && read(fd, now, sizeof now - 1) >= 0);
    if (strcmp(now, content))
        test_differs("%s holds '%s'", name, now);
    close(fd);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    int both = make("both", O_RDWR), shared = dup(both), log = make("log", O_WRONLY | O_APPEND);
    MUST(write(both, "0123456789", 10) == 10 && lseek(both, 4, SEEK_SET) == 4);
    MUST(write(log, "one\n", 4) == 4);
    int again = open(test_path("both"), O_RDONLY | O_CLOEXEC | O_NOATIME | O_NONBLOCK);
    MUST(again >= 0 && lseek(again, 7, SEEK_SET) == 7);
    int synced = open(test_path("both"), O_WRONLY | O_SYNC), far = make("far", O_RDWR);
    MUST(synced >= 0 && lseek(far, (off_t)1 << 40, SEEK_SET) == (off_t)1 << 40);
    MUST(symlink("both", test_path("link")) == 0);
    int path = open(test_path("link"), O_PATH | O_NOFOLLOW), here = open(test_workdir, O_PATH);
    MUST(path >= 0 && here >= 0);
    int flags[] = {fcntl(both, F_GETFL), fcntl(log, F_GETFL), fcntl(again, F_GETFL), fcntl(synced, F_GETFL)};
    test_wait();
    EXPECT_EQ(fcntl(both, F_GETFL), flags[0]);
    EXPECT_EQ(fcntl(log, F_GETFL), flags[1]);
    EXPECT_EQ(fcntl(again, F_GETFL), flags[2]);
    EXPECT_EQ(fcntl(synced, F_GETFL), flags[3]);
    EXPECT_EQ(fcntl(again, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(both, F_GETFD), 0);
    EXPECT_EQ(lseek(both, 0, SEEK_CUR), 4);
    EXPECT_EQ(lseek(again, 0, SEEK_CUR), 7);
    EXPECT_EQ(lseek(far, 0, SEEK_CUR), (off_t)1 << 40);
    EXPECT_EQ(lseek(shared, 2, SEEK_CUR), 6);
    EXPECT_EQ(lseek(both, 0, SEEK_CUR), 6);
    EXPECT_EQ(write(both, "x", 1), 1);
    EXPECT_EQ(write(log, "two\n", 4), 4);
    expect_content("both", "012345x789");
    expect_content("log", "one\ntwo\n");
    struct stat link;
    EXPECT(fstat(path, &link) == 0 && S_ISLNK(link.st_mode));
    EXPECT(read(path, &link, 1) < 0 && errno == EBADF);
    EXPECT(faccessat(here, "log", F_OK, 0) == 0);
    return test_done();
}
