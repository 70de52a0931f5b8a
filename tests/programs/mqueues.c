/* SPDX-License-Identifier: Apache-2.0
 *
 * POSIX message queues: names, limits, modes and owners; messages with their priorities, in their order; descriptions
 * with flags of their own, one of which a child has too; a queue that was unlinked; a receiver that waits.
 */
#include "tree.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/stat.h>

enum { SIZE = 100, LIMIT = 8 };
static mqd_t full, reading, waiting;
static char name[64], empty_name[64];

static mqd_t make(const char *queue, int flags, long limit)
{
    struct mq_attr attributes = {.mq_maxmsg = limit, .mq_msgsize = SIZE};
    mqd_t made = mq_open(queue, O_CREAT | O_EXCL | flags, 0600, &attributes);
    MUST(made >= 0);
    return made;
}

static void expect_message(mqd_t queue, const char *text, unsigned priority)
{
    char got[SIZE + 1] = "";
    unsigned found = 0;
    EXPECT_EQ(mq_receive(queue, got, SIZE, &found), strlen(text));
    EXPECT(strcmp(got, text) == 0);
    EXPECT_EQ(found, priority);
}

static int serve(char asked, void *argument)
{
    char text[SIZE];
    (void)argument;
    if (asked == 'w')
        return mq_receive(waiting, text, SIZE, NULL) != 5;
    return mq_send(full, "by the child", 12, 1);
}

static void tell_name(int number)
{
    FILE *list = fopen(test_path("ipc"), "a");
    MUST(list && fprintf(list, "mq %d\n", number) > 0 && fclose(list) == 0);
}

int main(int argc, char **argv)
{
    char text[SIZE] = "";
    struct stat status;
    struct mq_attr attributes;
    test_init(argc, argv);
    snprintf(name, sizeof name, "/restorer-test-%d", 2 * getpid());
    snprintf(empty_name, sizeof empty_name, "/restorer-test-%d", 2 * getpid() + 1);
    tell_name(2 * getpid()), tell_name(2 * getpid() + 1);
    full = make(name, O_RDWR | O_NONBLOCK, LIMIT), waiting = make(empty_name, O_RDWR, 1);
    MUST((reading = mq_open(name, O_RDONLY | O_CLOEXEC)) >= 0);
    mqd_t gone = make("/restorer-test-gone", O_RDWR | O_NONBLOCK, 3);
    MUST(mq_unlink("/restorer-test-gone") == 0 && fchown(full, 12, 34) == 0 && fchmod(full, 0640) == 0);
    MUST(mq_send(full, "low", 3, 0) == 0 && mq_send(full, "first", 5, 7) == 0 &&
         mq_send(full, "", 0, 7) == 0);
    MUST(mq_send(full, "third", 5, 7) == 0 && mq_send(full, "high", 4, 32767) == 0);
    MUST(mq_send(gone, "kept", 4, 2) == 0);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 3};
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, waiting, &event) == 0);
    struct child child = tree_fork(serve, NULL);
    MUST(write(child.link, "w", 1) == 1);
    test_wait();
    EXPECT(fcntl(reading, F_GETFD) == FD_CLOEXEC && fcntl(full, F_GETFL) == (O_RDWR | O_NONBLOCK));
    EXPECT_EQ(fcntl(reading, F_GETFL), O_RDONLY | O_CLOEXEC);
    EXPECT(fstat(full, &status) == 0 && status.st_uid == 12 && status.st_gid == 34);
    EXPECT_EQ(status.st_mode, S_IFREG | 0640);
    EXPECT(mq_getattr(full, &attributes) == 0 && attributes.mq_maxmsg == LIMIT &&
           attributes.mq_msgsize == SIZE);
    EXPECT_EQ(attributes.mq_curmsgs, 5);
    expect_message(reading, "high", 32767);
    expect_message(reading, "first", 7);
    expect_message(reading, "", 7);
    expect_message(full, "third", 7);
    expect_message(full, "low", 0);
    EXPECT(mq_receive(full, text, SIZE, NULL) == -1 && errno == EAGAIN);
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    int line = -1;
    EXPECT(mq_send(waiting, "awake", 5, 0) == 0 && read(child.link, &line, sizeof line) == sizeof line &&
           line == 0);
    EXPECT_EQ(tree_ask(&child, 's'), 0);
    expect_message(reading, "by the child", 1);
    expect_message(gone, "kept", 2);
    EXPECT(mq_open("/restorer-test-gone", O_RDWR) == -1 && errno == ENOENT);
    EXPECT(mq_send(waiting, "x", 1, 0) == 0 && epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u64 == 3);
    EXPECT(mq_unlink(name) == 0 && mq_unlink(empty_name) == 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
