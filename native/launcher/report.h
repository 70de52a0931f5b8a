/* SPDX-License-Identifier: Apache-2.0
 *
 * What the launcher leaves behind for others to read: pidfile, JSON object, counters.
 */
#ifndef RESTORER_REPORT_H
#define RESTORER_REPORT_H
#include <stdint.h>
#include <sys/types.h>

#include "options.h"
#include "wire.h"

#define EXIT_CODE_NONE (-1)

/* Opens --stats for appending; "-" is stderr. */
void report_open_stats(const struct options *options);

/* Closes every fd that the caller left open but stdio and --stats: the launcher's own must be low, and
 * whoever waits for the end of a pipe must not wait for the restored program. */
void report_close_inherited(void);

/* Appends {"event": EVENT, MS_NAME: MS, "counters": {...}}; nothing without --stats. */
void report_stats(const char *event, const char *ms_name, double ms, const struct wr_counters *counters);

/* Makes the temporary file of --pidfile, so that a bad path ends the restore before it begins. */
void report_prepare_pidfile(const struct options *options);
void report_write_pidfile(const struct options *options, pid_t pid);

/* Removes the temporary file if it has not become the pidfile. */
void report_cleanup(void);

/* One JSON object on `fd`; without "exit_code" when that is EXIT_CODE_NONE. */
void report_json(int fd, const char *name, pid_t pid, double resume_ms, int exit_code);

#endif
