/* SPDX-License-Identifier: Apache-2.0
 * unix_renamed: sockets that were bound under one name, whose file was then renamed, as haproxy does, two under the same
 * name, one into another folder; or deleted: with connections, some of which wait to be accepted, and datagrams.
 */
#include "test.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct sockaddr_un named(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    MUST(snprintf(address.sun_path, sizeof address.sun_path, "%s", path) < (int)sizeof address.sun_path);
    return address;
}

static int bound(int type, const char *path, const char *renamed)
{
    struct sockaddr_un address = named(path);
    int fd = socket(AF_UNIX, type, 0);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && rename(path, renamed) == 0);
    return fd;
}

static int connected(int type, const char *path)
{
    struct sockaddr_un address = named(path);
    int fd = socket(AF_UNIX, type, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        return -1;
    return fd;
}

static int is_named(int fd, int peer, const char *path)
{
    struct sockaddr_un now = {0};
    socklen_t length = sizeof now;
    int failed = peer ? getpeername(fd, (struct sockaddr *)&now, &length)
                      : getsockname(fd, (struct sockaddr *)&now, &length);
    return !failed && strcmp(now.sun_path, path) == 0;
}

static void expect_talk(int from, int to, const char *word)
{
    char text[16] = "";
    EXPECT(write(from, word, strlen(word)) == (ssize_t)strlen(word));
    EXPECT(recv(to, text, sizeof text, MSG_DONTWAIT) == (ssize_t)strlen(word) && strcmp(text, word) == 0);
}

/* In all of the work folder: those with a name, and what a restore might have left. */
static int count_sockets(void)
{
    int count = 0;
    static const char *const folders[] = {".", "folder"};
    for (int i = 0; i < 2; i++) {
        DIR *folder = opendir(folders[i]);
        MUST(folder != NULL);
        for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
            count += entry->d_type == DT_SOCK;
        closedir(folder);
    }
    return count;
}

int main(int argc, char **argv)
{
    char draft[108];
    struct stat file;
    test_init(argc, argv);
    MUST(chdir(test_workdir) == 0);
    MUST(snprintf(draft, sizeof draft, "%s", test_path("b")) < (int)sizeof draft);
    int first = bound(SOCK_STREAM, draft, "first.sock");
    int second = bound(SOCK_STREAM, draft, "second.sock");
    int log = bound(SOCK_DGRAM, "log.new", "log");
    MUST(mkdir("folder", 0700) == 0);
    int third = bound(SOCK_SEQPACKET, "third", "folder/third.sock"),
        hidden = bound(SOCK_STREAM, draft, "gone");
    int hidden_log = bound(SOCK_DGRAM, "log.new", "gone.log");
    MUST(listen(first, 4) == 0 && listen(second, 4) == 0 && listen(third, 4) == 0 && listen(hidden, 4) == 0);
    int known = connected(SOCK_STREAM, "gone"), knows = accept(hidden, NULL, NULL);
    int patient = connected(SOCK_STREAM, "gone"), hidden_sender = connected(SOCK_DGRAM, "gone.log");
    MUST(known >= 0 && knows >= 0 && patient >= 0 && hidden_sender >= 0);
    MUST(unlink("gone") == 0 && unlink("gone.log") == 0 && write(hidden_sender, "before", 6) == 6);
    MUST(chmod("first.sock", 0640) == 0 && chown("first.sock", 12, 34) == 0);
    int client = connected(SOCK_STREAM, "first.sock"), server = accept(first, NULL, NULL);
    int waiting = connected(SOCK_STREAM, "second.sock"), sender = connected(SOCK_DGRAM, "log");
    MUST(client >= 0 && server >= 0 && waiting >= 0 && sender >= 0 && write(sender, "early", 5) == 5);
    test_wait();
    EXPECT(is_named(first, 0, draft) && is_named(second, 0, draft) && is_named(log, 0, "log.new"));
    EXPECT(is_named(client, 1, draft) && is_named(server, 0, draft) && is_named(sender, 1, "log.new"));
    EXPECT(access(draft, F_OK) != 0 && access("log.new", F_OK) != 0);
    EXPECT(stat("first.sock", &file) == 0 && (file.st_mode & 07777) == 0640 && file.st_uid == 12);
    expect_talk(client, server, "client");
    expect_talk(server, client, "server");
    int accepted = accept(second, NULL, NULL);
    EXPECT(accepted >= 0);
    expect_talk(waiting, accepted, "waited");
    int late = connected(SOCK_STREAM, "first.sock"), later = accept(first, NULL, NULL);
    EXPECT(late >= 0 && later >= 0);
    expect_talk(late, later, "late");
    char text[16] = "";
    EXPECT(recv(log, text, sizeof text, MSG_DONTWAIT) == 5 && memcmp(text, "early", 5) == 0);
    expect_talk(sender, log, "line");
    int far = connected(SOCK_SEQPACKET, "folder/third.sock"), there = accept(third, NULL, NULL);
    EXPECT(far >= 0 && there >= 0 && is_named(third, 0, "third") && access("third", F_OK) != 0);
    expect_talk(far, there, "far");
    EXPECT(is_named(hidden, 0, draft) && is_named(known, 1, draft) && is_named(hidden_log, 0, "log.new"));
    EXPECT(access("gone", F_OK) != 0 && access("gone.log", F_OK) != 0 && count_sockets() == 4);
    expect_talk(known, knows, "known");
    int taken = accept(hidden, NULL, NULL);
    EXPECT(taken >= 0);
    expect_talk(patient, taken, "patient");
    EXPECT(recv(hidden_log, text, sizeof text, MSG_DONTWAIT) == 6 && memcmp(text, "before", 6) == 0);
    expect_talk(hidden_sender, hidden_log, "after");
    return test_done();
}
