/* SPDX-License-Identifier: Apache-2.0 */
/* cwd_deleted: a working directory that has been deleted, as that of a server whose release was replaced; and of a child. */
#include <sys/stat.h>
#include <sys/wait.h>
#include "test.h"

static void leave_in(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", test_path(name));
    MUST(mkdir(path, 0700) == 0 && chdir(path) == 0);
    MUST(chown(".", 4711, 4712) == 0 && chmod(".", 01751) == 0 && rmdir(path) == 0);
}

/* Nothing is there, nothing can be made there, and no path leads there. */
static int is_deleted(void)
{
    struct stat here;
    char path[4096];
    if (stat(".", &here) != 0 || here.st_nlink || (here.st_mode & 07777) != 01751)
        return 0;
    if (here.st_uid != 4711 || here.st_gid != 4712 || open("new", O_CREAT | O_WRONLY, 0600) >= 0 ||
        errno != ENOENT)
        return 0;
    return !getcwd(path, sizeof path) && errno == ENOENT;
}

int main(int argc, char **argv)
{
    int ends[2], status;
    test_init(argc, argv);
    MUST(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        leave_in("child's");
        close(ends[1]);
        MUST(read(ends[0], &byte, 1) == 0);
        _exit(is_deleted() && chdir("..") == 0 ? 7 : 1);
    }
    MUST(child > 0 && mkdir(test_path("above"), 0700) == 0);
    leave_in("above/release");
    MUST(is_deleted() && rmdir(test_path("above")) == 0);
    test_wait();
    EXPECT(is_deleted());
    EXPECT(close(ends[1]) == 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 7);
    return test_done();
}
