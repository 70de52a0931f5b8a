/* SPDX-License-Identifier: Apache-2.0 */
/* oom: oom_score_adj and coredump_filter. */
#include "test.h"

static void set(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void expect(const char *path, const char *text)
{
    char now[64] = "";
    int fd = open(path, O_RDONLY);
    EXPECT(fd >= 0 && read(fd, now, sizeof now - 1) > 0);
    if (strcmp(now, text))
        test_differs("%s is %s", path, now);
    close(fd);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    set("/proc/self/oom_score_adj", "321");
    set("/proc/self/coredump_filter", "0x15");
    test_wait();
    expect("/proc/self/oom_score_adj", "321\n");
    expect("/proc/self/coredump_filter", "00000015\n");
    return test_done();
}
