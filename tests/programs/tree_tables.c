/* SPDX-License-Identifier: Apache-2.0
 * Processes that share one table of descriptors (CLONE_FILES): a child with a thread, a grandchild, and one that has left
 * it; what one of them opens, duplicates and closes, the others see, and only they. Its POSIX locks are of all of them.
 */
#include "shared.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/un.h>

enum { FAR = 200, OPENED = 300, NOT_OPEN = 301 };

static int file, locked, memory, watch, pipe_ends[2], sent[2];
static struct child grandchild;
static pthread_barrier_t barrier;

static int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* Beside each other they would become one. */
static struct flock lock_of(int which)
{
    return (struct flock){.l_type = F_WRLCK, .l_start = 10 * which, .l_len = 1};
}

static int holder(int which, int *line)
{
    struct flock lock = lock_of(which);
    *line = fcntl(locked, F_GETLK, &lock) == 0 ? 0 : __LINE__;
    return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

static int take(int which)
{
    struct flock lock = lock_of(which);
    return fcntl(locked, F_SETLK, &lock);
}

static void *same_table(void *argument)
{
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    *(int *)argument = is_open(OPENED);
    return NULL;
}

static int serve_grandchild(char asked, void *argument)
{
    char text[8] = "";
    (void)argument;
    switch (asked) {
    case 'l':
        CHECK(take(2) == 0);
        return 0;
    case 'o':
        CHECK(is_open(OPENED) && !is_open(NOT_OPEN) && pread(OPENED, text, 3, 0) == 3 &&
              !memcmp(text, "new", 3));
        CHECK((fcntl(OPENED, F_GETFD) & FD_CLOEXEC) != 0 && (fcntl(FAR, F_GETFD) & FD_CLOEXEC) == 0);
        CHECK(close(OPENED) == 0);
        return 0;
    default:
        return __LINE__;
    }
}

static int serve(char asked, void *argument)
{
    static pthread_t thread;
    static int seen;
    (void)argument;
    switch (asked) {
    case 's':
        grandchild = shared_fork(CLONE_FILES, serve_grandchild, NULL);
        CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
        CHECK(pthread_create(&thread, NULL, same_table, &seen) == 0);
        pthread_barrier_wait(&barrier);
        CHECK(tree_ask(&grandchild, 'l') == 0 && take(1) == 0);
        return 0;
    case 'o': {
        int fresh = open(test_path("fresh"), O_RDWR | O_CREAT, 0600);
        CHECK(fresh >= 0 && write(fresh, "new", 3) == 3 && dup3(fresh, OPENED, O_CLOEXEC) == OPENED);
        CHECK(close(fresh) == 0);
        pthread_barrier_wait(&barrier);
        CHECK(pthread_join(thread, NULL) == 0 && seen);
        CHECK(tree_ask(&grandchild, 'o') == 0);
        return 0;
    }
    default:
        CHECK(tree_end(&grandchild) == 0);
        return 0;
    }
}

static int serve_apart(char asked, void *argument)
{
    int line = 0;
    (void)argument;
    if (asked == 'u') {
        CHECK(unshare(CLONE_FILES) == 0 && close(FAR) == 0);
        return 0;
    }
    CHECK(!is_open(FAR) && !is_open(OPENED) && is_open(file));
    for (int i = 0; i < 3 && asked == 'h'; i++)
        CHECK(holder(i, &line) == (i == 0 ? getppid() : ((pid_t *)argument)[i - 1]) && !line);
    for (int i = 0; i < 3 && asked == 'f'; i++)
        CHECK(holder(i, &line) == 0 && !line);
    return 0;
}

static void send_file(void)
{
    char control[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &file, sizeof file);
    MUST(sendmsg(sent[0], &message, 0) == 1);
}

static int receive_file(void)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(sent[1], &message, MSG_DONTWAIT) == 1 && message.msg_controllen >= CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

int main(int argc, char **argv)
{
    pid_t *pids = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 42};
    struct f_owner_ex owner;
    char text[8];
    test_init(argc, argv);
    file = open(test_path("file"), O_RDWR | O_CREAT, 0600);
    locked = open(test_path("locked"), O_RDWR | O_CREAT, 0600);
    memory = memfd_create("shared", 0);
    watch = epoll_create1(0);
    MUST(pids != MAP_FAILED && file >= 0 && locked >= 0 && memory >= 0 && watch >= 0 && pipe(pipe_ends) == 0);
    MUST(write(file, "abcdef", 6) == 6 && write(memory, "memory", 6) == 6);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sent) == 0 && take(0) == 0);
    MUST(epoll_ctl(watch, EPOLL_CTL_ADD, pipe_ends[0], &event) == 0);
    struct child child = shared_fork(CLONE_FILES, serve, NULL);
    struct child apart = shared_fork(CLONE_FILES, serve_apart, pids);
    MUST(dup2(file, FAR) == FAR && tree_ask(&apart, 'u') == 0 && is_open(FAR));
    owner = (struct f_owner_ex){F_OWNER_PID, child.pid};
    MUST(fcntl(pipe_ends[0], F_SETOWN_EX, &owner) == 0);
    MUST(tree_ask(&child, 's') == 0);
    pids[0] = child.pid;
    pids[1] = shared_first_child(child.pid);
    send_file();
    test_wait();
    EXPECT_EQ(tree_ask(&apart, 'h'), 0);
    EXPECT(is_open(FAR) && !is_open(OPENED));
    EXPECT_EQ(tree_ask(&child, 'o'), 0);
    EXPECT(!is_open(OPENED));
    EXPECT(shared_same(getpid(), child.pid, SHARED_FILES) && shared_same(getpid(), pids[1], SHARED_FILES));
    EXPECT(!shared_same(getpid(), apart.pid, SHARED_FILES) && !shared_same(getpid(), child.pid, SHARED_FS));
    EXPECT(pread(memory, text, 6, 0) == 6 && memcmp(text, "memory", 6) == 0);
    EXPECT(write(pipe_ends[1], "x", 1) == 1 && epoll_wait(watch, &event, 1, 0) == 1 && event.data.u64 == 42);
    EXPECT(fcntl(pipe_ends[0], F_GETOWN_EX, &owner) == 0 && owner.pid == child.pid);
    int received = receive_file();
    EXPECT(received >= 0 && lseek(received, 0, SEEK_CUR) == 6 && close(received) == 0);
    /* Closing any fd of the file gives up the locks of all who have the table: that of the grandchild, too. */
    EXPECT(close(locked) == 0);
    EXPECT_EQ(tree_ask(&apart, 'f'), 0);
    EXPECT_EQ(tree_ask(&child, 'e'), 0);
    EXPECT_EQ(tree_end(&child), 0);
    EXPECT_EQ(tree_end(&apart), 0);
    return test_done();
}
