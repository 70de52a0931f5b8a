/* SPDX-License-Identifier: Apache-2.0
 *
 * -d: the launcher goes into the background before it opens anything; who called it waits for the release.
 */
#ifndef RESTORER_DETACH_H
#define RESTORER_DETACH_H
#include <stdbool.h>
#include <sys/types.h>

#include "options.h"

/* Returns in the background process only; the one in front prints the PID and exits. */
void detach_begin(const struct options *options);

/* The fd that hangs up when the process in front has gone; -1 in the foreground. */
int detach_fd(void);

/* Releases the process in front. Our own stdio goes, but for a stderr that keeps nobody waiting. */
void detach_report(pid_t pid, double resume_ms);

/* The fd that the restored program gets for stdio `fd`; opened for it if it is not `fd` itself. */
int detach_stdio(const struct options *options, int fd);

#endif
