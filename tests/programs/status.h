/* SPDX-License-Identifier: Apache-2.0
 *
 * status.h: what /proc/thread-self/status says of the caller, to compare it before and after.
 */
#ifndef STATUS_H
#define STATUS_H
#include "test.h"

static inline void status_line(const char *key, char *line, size_t size)
{
    FILE *file = fopen("/proc/thread-self/status", "re");
    MUST(file);
    do
        MUST(fgets(line, (int)size, file));
    while (strncmp(line, key, strlen(key)) || line[strlen(key)] != ':');
    fclose(file);
}

#endif
