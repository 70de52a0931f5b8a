/* SPDX-License-Identifier: Apache-2.0
 * A package was upgraded: the file of the running program and that of a library it uses were replaced by others.
 */
#include "test.h"
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { AGAIN = 42 };

static char table[70000] = "changed in place";

static void copy(const char *from, const char *to, mode_t mode)
{
    char buffer[65536];
    ssize_t n;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, mode);
    MUST(in >= 0 && out >= 0);
    while ((n = read(in, buffer, sizeof buffer)) > 0)
        MUST(write(out, buffer, (size_t)n) == n);
    MUST(n == 0 && close(in) == 0 && close(out) == 0);
}

/* As dpkg does: a new file takes the name. */
static void replace(const char *name)
{
    char draft[4096];
    snprintf(draft, sizeof draft, "%s", test_path("draft"));
    int fd = open(draft, O_WRONLY | O_CREAT | O_EXCL, 0755);
    MUST(fd >= 0 && write(fd, "another\n", 8) == 8 && close(fd) == 0 && rename(draft, test_path(name)) == 0);
}

static uint64_t sum(const char *path)
{
    uint8_t buffer[65536];
    uint64_t value = 1469598103934665603u;
    ssize_t n;
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0);
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < n; i++)
            value = (value ^ buffer[i]) * 1099511628211u;
    MUST(n == 0 && close(fd) == 0);
    return value;
}

static int is_near(double a, double b)
{
    return a - b < 1e-9 && b - a < 1e-9;
}

int main(int argc, char **argv)
{
    char link[4096] = {0}, own[4096];
    struct stat before, after, maps;
    Dl_info info;
    int status;
    if (argc == 2 && strcmp(argv[1], "again") == 0)
        return AGAIN;
    test_init(argc, argv);
    snprintf(own, sizeof own, "%s", test_path("upgraded"));
    MUST(readlink("/proc/self/exe", link, sizeof link - 1) > 0);
    if (strcmp(link, own) != 0) {
        copy("/proc/self/exe", own, 0755);
        execv(own, argv);
        MUST(!"execv");
    }
    void *libc = dlopen("libm.so.6", RTLD_NOW);
    MUST(libc != NULL && dladdr(dlsym(libc, "cbrt"), &info) != 0);
    copy(info.dli_fname, test_path("libother.so"), 0644);
    void *library = dlopen(test_path("libother.so"), RTLD_NOW);
    MUST(library != NULL);
    double (*root)(double) = (double (*)(double))dlsym(library, "cbrt");
    double (*power)(double, double) = (double (*)(double, double))dlsym(library, "pow");
    MUST(root != NULL && power != NULL && is_near(root(27.0), 3.0));
    strcpy(table, "changed by the program");
    replace("upgraded");
    replace("libother.so");
    uint64_t content = sum("/proc/self/exe");
    MUST(stat("/proc/self/exe", &before) == 0 && before.st_nlink == 0);
    test_wait();
    EXPECT(is_near(root(64.0), 4.0) && is_near(power(2.0, 10.0), 1024.0) &&
           strcmp(table, "changed by the program") == 0);
    EXPECT(sum("/proc/self/exe") == content);
    memset(link, 0, sizeof link);
    EXPECT(readlink("/proc/self/exe", link, sizeof link - 1) > 0 && strstr(link, " (deleted)") != NULL);
    EXPECT(stat("/proc/self/exe", &after) == 0 && after.st_nlink == 0 && after.st_mode == before.st_mode);
    EXPECT(after.st_mtim.tv_sec == before.st_mtim.tv_sec && after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
    EXPECT(open("/proc/self/exe", O_WRONLY) == -1);
    EXPECT(sum(own) != content);
    /* The code that runs is that file. */
    uintptr_t page = (uintptr_t)main & ~4095ul;
    char line[4096];
    FILE *file = fopen("/proc/self/maps", "r");
    maps.st_ino = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long start, end, inode;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) == 3 && start <= page && page < end)
            maps.st_ino = inode;
    }
    fclose(file);
    EXPECT_EQ(maps.st_ino, after.st_ino);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "upgraded", "again", (char *)NULL);
        _exit(1);
    }
    EXPECT(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), AGAIN);
    return test_done();
}
