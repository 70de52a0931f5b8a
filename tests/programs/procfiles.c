/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of /proc that stay open: of this process, of a thread, of a child, of a zombie, folders, and namespaces; with
 * their offsets. What they show is what is true when they are read.
 */
#include "tree.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static int of_parent, over;
static volatile int secret = 4711;

static int open_of(int pid, const char *name, int flags)
{
    char path[64];
    snprintf(path, sizeof path, pid ? "/proc/%2$d/%1$s" : "/proc/self/%1$s", name, pid);
    int fd = open(path, flags);
    MUST(fd >= 0);
    return fd;
}

static const char *first_line(int fd)
{
    static char text[4096];
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    text[length < 0 ? 0 : length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return text;
}

static int serve(char asked, void *argument)
{
    char text[64];
    (void)argument;
    if (asked == 'n')
        CHECK(prctl(PR_SET_NAME, "renamed") == 0);
    else
        CHECK(sprintf(text, "%d (procfiles)", getppid()) > 0 &&
              strncmp(first_line(of_parent), text, strlen(text)) == 0);
    return 0;
}

static void *thread(void *unused)
{
    MUST(prctl(PR_SET_NAME, "a thread") == 0);
    int fd = open("/proc/thread-self/comm", O_RDWR);
    MUST(fd >= 0);
    __atomic_store_n((int *)unused, fd, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST))
        usleep(1000);
    return NULL;
}

static void expect_namespace(int fd, const char *name)
{
    struct stat found, own;
    EXPECT(fstat(fd, &found) == 0 && stat(name, &own) == 0 && found.st_ino == own.st_ino);
}

int main(int argc, char **argv)
{
    char text[64];
    pthread_t running;
    int comm = 0, value = 0;
    test_init(argc, argv);
    of_parent = open_of(0, "stat", O_RDONLY);
    struct child child = tree_fork(serve, NULL);
    int of_child = open_of(child.pid, "comm", O_RDONLY), memory = open_of(0, "mem", O_RDWR);
    int adjust = open_of(0, "oom_score_adj", O_RDWR | O_CLOEXEC),
        fds = open_of(0, "fd", O_RDONLY | O_DIRECTORY);
    int maps = open_of(0, "maps", O_RDONLY), handle = open_of(0, "exe", O_PATH | O_NOFOLLOW);
    int net = open_of(0, "ns/net", O_RDONLY), pids = open_of(0, "ns/pid", O_RDONLY | O_CLOEXEC);
    int uptime = open("/proc/uptime", O_RDONLY), setting = open("/proc/sys/kernel/ostype", O_RDONLY);
    int of_sys = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
    pid_t zombie = fork();
    MUST(zombie >= 0 && uptime >= 0 && setting >= 0);
    if (zombie == 0)
        _exit(0);
    MUST(waitid(P_PID, (id_t)zombie, &(siginfo_t){0}, WEXITED | WNOWAIT) == 0);
    int of_zombie = open_of(zombie, "stat", O_RDONLY);
    MUST(pthread_create(&running, NULL, thread, &comm) == 0);
    while (!__atomic_load_n(&comm, __ATOMIC_SEQ_CST))
        usleep(1000);
    MUST(read(maps, text, 13) == 13 && read(setting, text, 2) == 2 && memcmp(text, "Li", 2) == 0);
    MUST(lseek(memory, (off_t)(uintptr_t)&secret, SEEK_SET) != -1);
    test_wait();
    snprintf(text, sizeof text, "%d (procfiles)", getpid());
    EXPECT(strncmp(first_line(of_parent), text, strlen(text)) == 0);
    EXPECT_EQ(tree_ask(&child, 'p'), 0);
    EXPECT(strcmp(first_line(of_child), "procfiles") == 0 && tree_ask(&child, 'n') == 0);
    EXPECT(strcmp(first_line(of_child), "renamed") == 0);
    EXPECT(strcmp(first_line(comm), "a thread") == 0 && write(comm, "other", 5) == 5);
    EXPECT(strcmp(first_line(comm), "other") == 0 && (fcntl(comm, F_GETFL) & O_ACCMODE) == O_RDWR);
    secret = 815;
    EXPECT(read(memory, &value, sizeof value) == sizeof value && value == 815);
    EXPECT(lseek(maps, 0, SEEK_CUR) == 13 && read(maps, text, 1) == 1);
    EXPECT(pread(maps, text, 13, 0) == 13 && strtoull(text, NULL, 16) > 4096);
    EXPECT(write(adjust, "77", 2) == 2 && strcmp(first_line(adjust), "77") == 0);
    EXPECT_EQ(fcntl(adjust, F_GETFD), FD_CLOEXEC);
    snprintf(text, sizeof text, "%d", fds);
    EXPECT_EQ(faccessat(fds, text, F_OK, AT_SYMLINK_NOFOLLOW), 0);
    EXPECT(readlinkat(handle, "", text, sizeof text) > 10);
    expect_namespace(net, "/proc/self/ns/net"), expect_namespace(pids, "/proc/self/ns/pid");
    EXPECT_EQ(setns(net, CLONE_NEWNET), 0);
    snprintf(text, sizeof text, "%d (procfiles) Z", zombie);
    EXPECT(strncmp(first_line(of_zombie), text, strlen(text)) == 0);
    EXPECT(atof(first_line(uptime)) > 0 && strstr(first_line(of_sys), "never"));
    EXPECT(read(setting, text, 4) == 4 && memcmp(text, "nux\n", 4) == 0);
    __atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
    EXPECT_EQ(pthread_join(running, NULL), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
