/* SPDX-License-Identifier: Apache-2.0 */
/* Locks of files: POSIX ranges, one of an open file description, flock, by shared and by exclusive. */
#include "test.h"
#include <sys/file.h>
#include <sys/wait.h>

static int make(const char *name)
{
    int fd = open(test_path(name), O_RDWR | O_CREAT, 0600);
    MUST(fd >= 0 && ftruncate(fd, 1000) == 0);
    return fd;
}

static void take(int fd, int command, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_start = start, .l_len = length};
    MUST(fcntl(fd, command, &lock) == 0);
}

/* What stands in the way of an exclusive lock of these bytes by somebody else: type, start, length. */
static void expect_lock(const char *name, int command, off_t at, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = F_WRLCK, .l_start = at, .l_len = 1};
    int fd = open(test_path(name), O_RDWR);
    EXPECT_EQ(fcntl(fd, command, &lock), 0);
    EXPECT_EQ(lock.l_type, type);
    if (type != F_UNLCK) {
        EXPECT_EQ(lock.l_start, start);
        EXPECT_EQ(lock.l_len, length);
        EXPECT_EQ(lock.l_pid, command == F_OFD_GETLK ? -1 : getppid());
    }
    close(fd);
}

/* In a child: a process never stands in its own way with POSIX locks, and closing would drop them. */
static int child(void)
{
    expect_lock("posix", F_GETLK, 15, F_WRLCK, 10, 20);
    expect_lock("posix", F_GETLK, 45, F_RDLCK, 40, 0);
    expect_lock("posix", F_GETLK, 35, F_UNLCK, 0, 0);
    int fd = open(test_path("shared"), O_RDONLY);
    EXPECT(flock(fd, LOCK_SH | LOCK_NB) == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    return test_length != 0;
}

int main(int argc, char **argv)
{
    int status = -1;
    test_init(argc, argv);
    int posix = make("posix"), description = make("description"), gone = make("gone");
    int exclusive = make("exclusive"), shared = make("shared"), copy = dup(exclusive);
    take(posix, F_SETLK, F_WRLCK, 10, 20);
    take(posix, F_SETLK, F_RDLCK, 40, 0);
    take(description, F_OFD_SETLK, F_RDLCK, 5, 6);
    MUST(flock(exclusive, LOCK_EX) == 0 && flock(shared, LOCK_SH) == 0 && copy >= 0);
    MUST(flock(gone, LOCK_EX) == 0 && unlink(test_path("gone")) == 0);
    test_wait();
    expect_lock("description", F_OFD_GETLK, 7, F_RDLCK, 5, 6);
    expect_lock("description", F_OFD_GETLK, 12, F_UNLCK, 0, 0);
    int other = open(test_path("exclusive"), O_RDONLY);
    EXPECT(flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    EXPECT_EQ(close(exclusive), 0);
    EXPECT(flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    EXPECT_EQ(flock(copy, LOCK_UN), 0);
    EXPECT_EQ(flock(other, LOCK_SH | LOCK_NB), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(child());
    EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid);
    EXPECT_EQ(status, 0);
    return test_done();
}
