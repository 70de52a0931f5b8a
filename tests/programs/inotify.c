/* SPDX-License-Identifier: Apache-2.0
 *
 * inotify: watches of folders, of files, of a symbolic link itself and of a file without a name; their numbers and
 * flags, those of watches that are gone too; an instance that a child has as well. Restoring is no event.
 */
#include "tree.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

static int watch, shared, spare;

static int add(int instance, const char *path, uint32_t mask)
{
    int wd = inotify_add_watch(instance, path, mask);
    MUST(wd > 0);
    return wd;
}

static void touch(const char *name)
{
    EXPECT_EQ(close(open(test_path(name), O_WRONLY | O_CREAT, 0600)), 0);
}

/* 0 if the next event is this one and the only one. */
static int next(int instance, int wd, uint32_t mask, const char *name)
{
    _Alignas(struct inotify_event) char buffer[4096];
    struct inotify_event *event = (struct inotify_event *)buffer;
    ssize_t length = read(instance, buffer, sizeof(buffer));
    if (length < (ssize_t)sizeof(*event) || length != (ssize_t)(sizeof(*event) + event->len))
        return __LINE__;
    if (event->wd != wd || event->mask != mask || event->cookie)
        return __LINE__;
    return strcmp(event->len ? event->name : "", name) ? __LINE__ : 0;
}

static int serve(char asked, void *argument)
{
    const int *wds = argument;
    switch (asked) {
    case 'w':
        return next(shared, wds[0], IN_CREATE, "for the child");
    default:
        CHECK(inotify_rm_watch(shared, wds[0]) == 0);
        return 0;
    }
}

int main(int argc, char **argv)
{
    char text[4096];
    test_init(argc, argv);
    MUST(mkdir(test_path("folder"), 0700) == 0 && mkdir(test_path("shared"), 0700) == 0);
    touch("file"), touch("once"), touch("folder/kept");
    MUST(symlink("nowhere", test_path("link")) == 0);
    int gone = open(test_path("gone"), O_RDWR | O_CREAT, 0600), kept = open(test_path("folder/kept"), O_RDWR);
    MUST((watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) >= 0 && (shared = inotify_init()) >= 0);
    MUST((spare = inotify_init1(IN_NONBLOCK)) >= 0 && gone >= 0 && kept >= 0);
    for (int i = 1; i <= 4; i++)
        MUST(inotify_rm_watch(watch, add(watch, test_path("file"), IN_MODIFY)) == 0);
    MUST(read(watch, text, sizeof text) == 4 * sizeof(struct inotify_event));
    int file = add(watch, test_path("file"), IN_ATTRIB),
        folder = add(watch, test_path("folder"), IN_ALL_EVENTS);
    int link = add(watch, test_path("link"), IN_ALL_EVENTS | IN_DONT_FOLLOW);
    int unnamed = add(watch, test_path("gone"), IN_MODIFY);
    int excluding = add(watch, test_path("shared"), IN_MODIFY | IN_EXCL_UNLINK);
    int once = add(watch, test_path("once"), IN_ATTRIB | IN_ONESHOT);
    int wds[] = {add(shared, test_path("shared"), IN_CREATE)};
    MUST(file == 5 && once == 10 && unlink(test_path("gone")) == 0);
    int deleted = open(test_path("shared/deleted"), O_RDWR | O_CREAT, 0600);
    MUST(deleted >= 0 && next(shared, wds[0], IN_CREATE, "deleted") == 0);
    MUST(unlink(test_path("shared/deleted")) == 0);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 7};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watch, &event) == 0);
    struct child child = tree_fork(serve, wds);
    test_wait();
    EXPECT(read(watch, text, sizeof text) == -1 && errno == EAGAIN);
    EXPECT(fcntl(watch, F_GETFD) == FD_CLOEXEC && fcntl(shared, F_GETFL) == O_RDONLY);
    EXPECT_EQ(write(deleted, "x", 1), 1);
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    EXPECT_EQ(write(kept, "x", 1), 1);
    EXPECT(epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u64 == 7);
    EXPECT_EQ(next(watch, folder, IN_MODIFY, "kept"), 0);
    EXPECT(chmod(test_path("file"), 0640) == 0 && next(watch, file, IN_ATTRIB, "") == 0);
    EXPECT(write(gone, "x", 1) == 1 && next(watch, unnamed, IN_MODIFY, "") == 0);
    EXPECT(lchown(test_path("link"), getuid(), getgid()) == 0 && next(watch, link, IN_ATTRIB, "") == 0);
    EXPECT(chmod(test_path("once"), 0640) == 0 && read(watch, text, sizeof text) == 32);
    EXPECT(chmod(test_path("once"), 0600) == 0 && read(watch, text, sizeof text) == -1 && errno == EAGAIN);
    EXPECT(inotify_rm_watch(watch, once) == -1 && errno == EINVAL);
    EXPECT(inotify_rm_watch(watch, excluding) == 0 && next(watch, excluding, IN_IGNORED, "") == 0);
    EXPECT(inotify_add_watch(watch, test_path("file"), IN_MODIFY) == file);
    EXPECT(inotify_add_watch(watch, test_path("once"), IN_MODIFY) > once);
    EXPECT_EQ(inotify_add_watch(spare, test_path("once"), IN_MODIFY), 1);
    touch("shared/for the child");
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT_EQ(tree_ask(&child, 'r'), 0);
    EXPECT_EQ(next(shared, wds[0], IN_IGNORED, ""), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
