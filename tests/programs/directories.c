/* SPDX-License-Identifier: Apache-2.0 */
/* directories: the position in a directory that is being listed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <sys/stat.h>
#include "test.h"

enum { ENTRIES = 500 };
static unsigned char seen[ENTRIES];

static void count(DIR *list, int limit)
{
    struct dirent *entry;
    while (limit-- && (entry = readdir(list))) {
        int number;
        if (sscanf(entry->d_name, "f%d", &number) == 1)
            seen[number]++;
    }
}

int main(int argc, char **argv)
{
    char name[32];
    test_init(argc, argv);
    MUST(mkdir(test_path("d"), 0700) == 0);
    int folder = open(test_path("d"), O_RDONLY | O_DIRECTORY);
    MUST(folder >= 0);
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof name, "f%d", i);
        MUST(close(openat(folder, name, O_CREAT | O_WRONLY, 0600)) == 0);
    }
    DIR *list = fdopendir(folder);
    MUST(list);
    count(list, 100);
    test_wait();
    count(list, -1);
    for (int i = 0; i < ENTRIES; i++)
        if (seen[i] != 1)
            test_differs("entry %d seen %d times", i, seen[i]);
    return test_done();
}
