/* SPDX-License-Identifier: Apache-2.0
 * unix_chroot: a server that has bound sockets before it went into a chroot, one of them renamed since, and others inside
 * of it; a child that has stayed outside connects to all of them.
 */
#include "test.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static int bound(int type, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type, 0);
    MUST(snprintf(address.sun_path, sizeof address.sun_path, "%s", path) < (int)sizeof address.sun_path);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(type == SOCK_DGRAM || listen(fd, 4) == 0);
    return fd;
}

static int connected(int type, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

static void expect_name(int fd, const char *path)
{
    struct sockaddr_un now = {0};
    socklen_t length = sizeof now;
    EXPECT(getsockname(fd, (struct sockaddr *)&now, &length) == 0 && strcmp(now.sun_path, path) == 0);
}

static void expect_heard(int fd, int listens, const char *word)
{
    char text[16] = "";
    int from = listens ? accept4(fd, NULL, NULL, SOCK_NONBLOCK) : fd;
    EXPECT(recv(from, text, sizeof text - 1, MSG_DONTWAIT) == (ssize_t)strlen(word) &&
           strcmp(text, word) == 0);
    if (listens)
        close(from);
}

/* Stays outside: when asked, says something to each of the sockets by the paths that lead to them from there. */
static void outsider(int asks, int tells)
{
    static const char *const paths[] = {"before", "moved", "inside", "renamed"};
    char ask;
    while (read(asks, &ask, 1) == 1) {
        int failed = 0;
        for (int i = 0; i < 4; i++) {
            int fd = connected(SOCK_STREAM, test_path(paths[i]));
            failed += fd < 0 || write(fd, paths[i], 4) != 4;
            close(fd);
        }
        int log = connected(SOCK_DGRAM, test_path("log"));
        failed += log < 0 || write(log, "late", 4) != 4;
        close(log);
        if (write(tells, &failed, sizeof failed) != sizeof failed)
            break;
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    int asks[2], tells[2], failed = -1;
    char name[108], draft[108];
    test_init(argc, argv);
    MUST(pipe(asks) == 0 && pipe(tells) == 0);
    pid_t child = fork();
    if (child == 0)
        outsider(asks[0], (close(asks[1]), tells[1]));
    MUST(snprintf(name, sizeof name, "%s", test_path("before")) < (int)sizeof name);
    MUST(snprintf(draft, sizeof draft, "%s", test_path("draft")) < (int)sizeof draft);
    int before = bound(SOCK_STREAM, name), moved = bound(SOCK_STREAM, draft);
    MUST(rename(draft, test_path("moved")) == 0 && chroot(test_workdir) == 0 && chdir("/") == 0);
    test_workdir = "/";
    int inside = bound(SOCK_STREAM, "/inside"), renamed = bound(SOCK_STREAM, "/draft"),
        log = bound(SOCK_DGRAM, "/log");
    MUST(rename("/draft", "/renamed") == 0);
    int client = connected(SOCK_STREAM, "/inside"), server = accept(inside, NULL, NULL);
    int sender = connected(SOCK_DGRAM, "/log"), patient = connected(SOCK_STREAM, "/renamed");
    MUST(client >= 0 && server >= 0 && sender >= 0 && patient >= 0 && write(sender, "early", 5) == 5);
    test_wait();
    expect_name(before, name);
    expect_name(moved, draft);
    expect_name(inside, "/inside");
    expect_name(renamed, "/draft");
    expect_heard(log, 0, "early");
    EXPECT(write(client, "more", 4) == 4 && write(patient, "wait", 4) == 4 && write(sender, "sent", 4) == 4);
    expect_heard(server, 0, "more");
    expect_heard(renamed, 1, "wait");
    expect_heard(log, 0, "sent");
    EXPECT(write(asks[1], "?", 1) == 1 && read(tells[0], &failed, sizeof failed) == sizeof failed);
    EXPECT_EQ(failed, 0);
    expect_heard(before, 1, "befo");
    expect_heard(moved, 1, "move");
    expect_heard(inside, 1, "insi");
    expect_heard(renamed, 1, "rena");
    expect_heard(log, 0, "late");
    EXPECT(access("/draft", F_OK) < 0 && access("/proc", F_OK) < 0);
    EXPECT(close(asks[1]) == 0 && waitpid(child, NULL, 0) == child);
    return test_done();
}
