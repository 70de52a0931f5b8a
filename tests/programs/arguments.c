/* SPDX-License-Identifier: Apache-2.0
 * What /proc/self shows of the process: cmdline, environ, auxv, exe, and the layout in stat. */
#include "memory.h"

#define FILES 3
#define ROOM  65536

static const char *const files[FILES] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv"};
static char before[FILES][ROOM], after[ROOM], exe[4096], layout[1024];

static size_t content(const char *path, char *buffer, size_t room)
{
    size_t length = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0);
    while ((got = read(fd, buffer + length, room - length)) > 0)
        length += got;
    MUST(got == 0 && close(fd) == 0);
    return length;
}

/* start_code, end_code, start_stack (26-28) and start_data to env_end (45-51) of stat. */
static void read_layout(char *text, size_t room)
{
    char stat[4096];
    stat[content("/proc/self/stat", stat, sizeof stat - 1)] = 0;
    char *field = strrchr(stat, ')') + 2, *rest = NULL;
    text[0] = 0;
    int number = 3;
    for (field = strtok_r(field, " ", &rest); field; field = strtok_r(NULL, " ", &rest), number++) {
        if ((number >= 26 && number <= 28) || (number >= 45 && number <= 51))
            snprintf(text + strlen(text), room - strlen(text), "%d=%s ", number, field);
    }
}

int main(int argc, char **argv)
{
    size_t lengths[FILES];
    char now[4096];
    test_init(argc, argv);
    for (int i = 0; i < FILES; i++)
        lengths[i] = content(files[i], before[i], ROOM);
    ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    MUST(length > 0);
    read_layout(layout, sizeof layout);
    test_wait();
    for (int i = 0; i < FILES; i++) {
        if (content(files[i], after, ROOM) != lengths[i] || memcmp(before[i], after, lengths[i]) != 0)
            test_differs("%s has changed", files[i]);
    }
    EXPECT(readlink("/proc/self/exe", now, sizeof now) == length && memcmp(exe, now, length) == 0);
    read_layout(now, sizeof now);
    if (strcmp(layout, now) != 0)
        test_differs("layout was %s, is %s", layout, now);
    return test_done();
}
