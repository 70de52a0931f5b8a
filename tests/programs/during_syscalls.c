/* SPDX-License-Identifier: Apache-2.0
 * System calls whose buffers are missing: the kernel meets every page first, reading and writing, by copy, by reference,
 * past the page cache, and from another process. Each call has chunks of its own, so that nothing is there before. */
#include "memory.h"
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PAGES 2048
#define STEP  64 /* pages of each use: four chunks */
#define PART  16

static char *area;
static size_t used;

/* Of the next use: page numbers from `*first` on, none of which anybody has touched. */
static char *fresh(size_t *first)
{
    *first = used;
    used += STEP;
    MUST(used <= PAGES);
    return area + *first * PAGE;
}

/* What was read into `bytes` is what page `first` and those after it hold. */
static void expect_pages(const char *what, const void *bytes, size_t first, size_t pages)
{
    size_t wrong = memory_wrong_from(bytes, first, pages, 1);
    if (wrong)
        test_differs("%s: %zu pages of %zu are wrong", what, wrong, pages);
}

static void file_io(const char *what, int flags, const char *folder)
{
    size_t out_first, in_first;
    char *out = fresh(&out_first), *in = fresh(&in_first);
    struct iovec parts[3] = {{in, PAGE}, {in + 8 * PAGE, 2 * PAGE}, {in + 4 * PAGE, PAGE}};
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd < 0 && (errno == EINVAL || errno == EOPNOTSUPP))
        return; /* this file system does not have O_DIRECT, or O_TMPFILE */
    MUST(fd >= 0);
    EXPECT_EQ(pwrite(fd, out, PART * PAGE, 0), PART * PAGE);
    expect_pages(what, out, out_first, PART);
    EXPECT_EQ(preadv(fd, parts, 3, 0), 4 * PAGE);
    expect_pages(what, in, out_first, 1);
    expect_pages(what, in + 8 * PAGE, out_first + 1, 2);
    expect_pages(what, in + 4 * PAGE, out_first + 3, 1);
    /* Between them lies what nobody has read into. */
    expect_pages(what, in + PAGE, in_first + 1, 3);
    expect_pages(what, in + 10 * PAGE, in_first + 10, 6);
    MUST(close(fd) == 0);
}

static void sockets(void)
{
    size_t out_first, in_first;
    char *out = fresh(&out_first), *in = fresh(&in_first);
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    struct iovec from[2] = {{out + 2 * PAGE, PAGE}, {out, PAGE}},
                 to[2] = {{in + PAGE, PAGE}, {in + 4 * PAGE, PAGE}};
    struct msghdr send = {.msg_iov = from, .msg_iovlen = 2}, receive = {.msg_iov = to, .msg_iovlen = 2};
    EXPECT_EQ(sendmsg(pair[0], &send, 0), 2 * PAGE);
    EXPECT_EQ(recvmsg(pair[1], &receive, MSG_WAITALL), 2 * PAGE);
    expect_pages("sendmsg", in + PAGE, out_first + 2, 1);
    expect_pages("sendmsg", in + 4 * PAGE, out_first, 1);
    expect_pages("recvmsg", in + 2 * PAGE, in_first + 2, 2);
    MUST(close(pair[0]) == 0 && close(pair[1]) == 0);
}

/* vmsplice(2) takes references to pages: they have to be there. The other way copies. */
static void splices(void)
{
    size_t out_first, in_first;
    char *out = fresh(&out_first), *in = fresh(&in_first);
    struct iovec from = {out + PAGE, 4 * PAGE}, to = {in + 3 * PAGE, 4 * PAGE};
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    EXPECT_EQ(vmsplice(ends[1], &from, 1, 0), 4 * PAGE);
    EXPECT_EQ(vmsplice(ends[0], &to, 1, 0), 4 * PAGE);
    expect_pages("vmsplice", in + 3 * PAGE, out_first + 1, 4);
    MUST(close(ends[0]) == 0 && close(ends[1]) == 0);
}

/* Random bytes into the middle of a page, whose rest has to come from the image. */
static void random_bytes(void)
{
    size_t first;
    char *page = fresh(&first), expected[PAGE];
    memory_fill(expected, 1, 1 + first * 512);
    EXPECT_EQ(getrandom(page + 1000, 16, 0), 16);
    EXPECT(first % 8 == 0 && memcmp(page, expected, 1000) == 0);
    EXPECT(memcmp(page + 1016, expected + 1016, PAGE - 1016) == 0);
}

/* One process reads and writes the other's missing memory, which is missing in itself as well. */
static void between_processes(void)
{
    size_t first, own_first;
    char *remote = fresh(&first), *own = fresh(&own_first);
    pid_t parent = getpid(), pid = fork();
    int status;
    MUST(pid >= 0);
    if (pid == 0) {
        struct iovec here = {own, PART * PAGE}, there = {remote, PART * PAGE},
                     back = {remote + 32 * PAGE, PART * PAGE};
        ssize_t got = process_vm_readv(parent, &here, 1, &there, 1, 0);
        size_t wrong = memory_wrong_from(own, first, PART, 1);
        _exit(got != PART * (ssize_t)PAGE || wrong ||
              process_vm_writev(parent, &here, 1, &back, 1, 0) != PART * (ssize_t)PAGE);
    }
    MUST(waitpid(pid, &status, 0) == pid);
    EXPECT_EQ(status, 0);
    expect_pages("process_vm_writev", remote + 32 * PAGE, first, PART);
    expect_pages("beside process_vm_writev", remote + 48 * PAGE, first + 48, 16);
    expect_pages("the child's copy stays its own", own, own_first, PART);
    struct iovec here = {own + 32 * PAGE, PAGE}, there = {remote + 20 * PAGE, PAGE};
    EXPECT_EQ(process_vm_readv(parent, &here, 1, &there, 1, 0), PAGE);
    expect_pages("process_vm_readv of its own", own + 32 * PAGE, first + 20, 1);
}

/* Arguments in memory: a path, a structure, a vector of vectors. */
static void arguments(char *name, struct timespec *time, struct iovec *vector)
{
    char word[8] = "";
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    EXPECT_EQ(preadv(fd, vector, 1, 0), 4);
    EXPECT(memcmp(vector->iov_base, "root", 4) == 0);
    EXPECT(clock_gettime(CLOCK_MONOTONIC, time) == 0 && time->tv_sec > 0);
    EXPECT(syscall(SYS_getcwd, name, 64) > 0 && name[0] == '/');
    EXPECT_EQ(pread(fd, word, 4, 0), 4);
    MUST(close(fd) == 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    area = memory_map(PAGES, 0);
    char *small = memory_map(3 * STEP, 0);
    memory_fill(area, PAGES, 1);
    struct iovec *vector = (struct iovec *)(small + STEP * PAGE);
    strcpy(small, "/etc/passwd");
    *vector = (struct iovec){small + 2 * STEP * PAGE, 4};
    memory_fill(small + 2 * STEP * PAGE, 1, 7);
    test_wait();
    file_io("through the page cache", 0, "/var/tmp");
    file_io("past the page cache", O_DIRECT, "/var/tmp");
    sockets();
    splices();
    random_bytes();
    between_processes();
    arguments(small, (struct timespec *)(small + 32 * PAGE), vector);
    expect_pages("what no call has touched", area + used * PAGE, used, PAGES - used);
    return test_done();
}
