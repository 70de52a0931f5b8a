/* SPDX-License-Identifier: Apache-2.0
 * Memfds that are only mapped, by two processes that have nothing else in common, and come back lazily; and such that must
 * not, for somebody has a descriptor, or a private mapping: reading those by other ways gives no zeroes.
 */
#include "memory.h"
#include "tree.h"
#include <sys/stat.h>

#define PAGES  1024
#define MIDDLE 300

static int make(uint64_t seed, char **addr)
{
    int fd = memfd_create("lazy", MFD_ALLOW_SEALING);
    MUST(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
    *addr = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(*addr != MAP_FAILED);
    memory_fill(*addr, PAGES, seed);
    return fd;
}

/* A descriptor that waits in a socket, and nowhere else. */
static void send_away(int link, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec byte = {"f", 1};
    struct msghdr message = {
        .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    MUST(sendmsg(link, &message, 0) == 1 && close(fd) == 0);
}

static int receive(int link)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    char byte;
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(link, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static size_t wrong_in_file(int fd, uint64_t seed)
{
    char page[PAGE];
    size_t wrong = 0;
    for (size_t i = PAGES; i-- > 0;)
        wrong +=
            pread(fd, page, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE || memory_wrong_from(page, i, 1, seed);
    return wrong;
}

static char *mapped;
static const char *private, *read_only;
static int held;

static int serve(char asked, void *argument)
{
    if (asked == 'p') {
        /* A mapping of its own, by another descriptor, of another part. */
        int fd = *(int *)argument;
        mapped = mmap(NULL, (PAGES - MIDDLE) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, MIDDLE * PAGE);
        CHECK(mapped != MAP_FAILED && close(fd) == 0);
        return 0;
    }
    if (asked == 'w') {
        mapped[(PAGES - MIDDLE - 1) * PAGE + 9] = 'x';
        return 0;
    }
    CHECK(memory_wrong_from(mapped, MIDDLE, PAGES - MIDDLE - 1, 1) == 0);
    CHECK(wrong_in_file(held, 2) == 0);
    CHECK(memory_wrong(private, PAGES, 3) == 0 && memory_wrong(read_only, PAGES, 4) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    char *shared, *also_held, *also_private, *also_sent, *scratch;
    int pair[2];
    test_init(argc, argv);
    int fd = make(1, &shared);
    held = make(2, &also_held);
    int other = make(3, &also_private);
    private = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, other, 0);
    MUST(private != MAP_FAILED && close(other) == 0);
    int sealed = make(4, &scratch);
    MUST(munmap(scratch, PAGES * PAGE) == 0 && fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    read_only = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, sealed, 0);
    MUST(read_only != MAP_FAILED && close(sealed) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    send_away(pair[0], make(5, &also_sent));
    struct child child = tree_fork(serve, &fd);
    MUST(tree_ask(&child, 'p') == 0);
    MUST(munmap(shared + 512 * PAGE, 12 * PAGE) == 0 && close(fd) == 0);
    test_wait();
    EXPECT_EQ(tree_ask(&child, 'l'), 0);
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT_EQ(shared[(PAGES - 1) * PAGE + 9], 'x');
    EXPECT_EQ(memory_wrong(shared, 512, 1), 0);
    EXPECT_EQ(memory_wrong_from(shared + 524 * PAGE, 524, PAGES - 525, 1), 0);
    EXPECT_EQ(wrong_in_file(receive(pair[1]), 5), 0);
    EXPECT_EQ(memory_wrong(also_held, PAGES, 2), 0);
    EXPECT_EQ(memory_wrong(also_private, PAGES, 3), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
