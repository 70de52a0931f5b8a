/* SPDX-License-Identifier: Apache-2.0
 * Descriptions that processes share: the offset of a file, both ends of a pipe, an eventfd, an epoll instance, flock;
 * a POSIX lock and a named socket that are of one of them.
 */
#include "tree.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/un.h>

static int file, locked, counter, watch, pipe_ends[2], named = -1;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int serve(char asked, void *argument)
{
    char text[8];
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    struct epoll_event event;
    (void)argument;
    switch (asked) {
    case 'p':
        CHECK(fcntl(locked, F_SETLK, &lock) == 0);
        named = socket(AF_UNIX, SOCK_DGRAM, 0);
        CHECK(named >= 0 && bind(named, (struct sockaddr *)&address, sizeof(address)) == 0);
        return 0;
    case 'r':
        CHECK(read(file, text, 4) == 4 && memcmp(text, "ghij", 4) == 0);
        CHECK(read(pipe_ends[0], text, 4) == 4 && memcmp(text, "pipe", 4) == 0);
        CHECK(read(counter, text, 8) == 8 && *(uint64_t *)text == 5);
        CHECK(epoll_wait(watch, &event, 1, 0) == 0);
        CHECK(flock(file, LOCK_EX | LOCK_NB) == 0);
        CHECK(recv(named, text, 4, MSG_DONTWAIT) == 4 && memcmp(text, "name", 4) == 0);
        return 0;
    default:
        CHECK(fcntl(locked, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
        CHECK(write(pipe_ends[1], "back", 4) == 4);
        return 0;
    }
}

int main(int argc, char **argv)
{
    char text[8], path[4096];
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 42};
    test_init(argc, argv);
    MUST(chdir(test_path("")) == 0);
    snprintf(address.sun_path, sizeof address.sun_path, "named");
    snprintf(path, sizeof path, "%s", test_path("file"));
    file = open(path, O_RDWR | O_CREAT, 0600);
    locked = open(test_path("locked"), O_RDWR | O_CREAT, 0600);
    counter = eventfd(0, 0);
    watch = epoll_create1(0);
    MUST(file >= 0 && locked >= 0 && counter >= 0 && watch >= 0 && pipe(pipe_ends) == 0);
    MUST(write(file, "abcdefghijkl", 12) == 12 && lseek(file, 6, SEEK_SET) == 6);
    MUST(epoll_ctl(watch, EPOLL_CTL_ADD, counter, &event) == 0 && flock(file, LOCK_EX) == 0);
    struct child child = tree_fork(serve, NULL);
    MUST(tree_ask(&child, 'p') == 0);
    int client = socket(AF_UNIX, SOCK_DGRAM, 0);
    MUST(client >= 0 && connect(client, (struct sockaddr *)&address, sizeof(address)) == 0);
    MUST(write(pipe_ends[1], "pipe", 4) == 4);
    test_wait();
    EXPECT(eventfd_write(counter, 5) == 0);
    EXPECT_EQ(epoll_wait(watch, &event, 1, 0), 1);
    EXPECT_EQ(event.data.u64, 42);
    EXPECT_EQ(send(client, "name", 4, 0), 4);
    EXPECT_EQ(tree_ask(&child, 'r'), 0);
    EXPECT_EQ(lseek(file, 0, SEEK_CUR), 10);
    EXPECT(read(file, text, 2) == 2 && memcmp(text, "kl", 2) == 0);
    int again = open(path, O_RDWR);
    EXPECT(again >= 0 && flock(again, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
    EXPECT(fcntl(locked, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == child.pid);
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT(read(pipe_ends[0], text, 4) == 4 && memcmp(text, "back", 4) == 0);
    EXPECT_EQ(tree_end(&child), 0);
    lock.l_type = F_WRLCK;
    EXPECT(fcntl(locked, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
    return test_done();
}
