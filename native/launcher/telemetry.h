/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters, the ring of faults and the record of chunks used, in a memfd of the launcher: whoever may open
 * /proc/LAUNCHER/fd may read them while the restore goes on, and nobody pays for it who does not.
 */
#ifndef RESTORER_TELEMETRY_H
#define RESTORER_TELEMETRY_H
#include "image.h"
#include "region.h"

/* Shared memory at `start`, to be inherited by the tree: struct wr_ctl, struct wr_trace. */
void telemetry_map(uint64_t start, uint64_t bytes);

void telemetry_init(const struct region *region, const struct image *image, uint64_t records);

/* The program runs as PID `pid`. */
void telemetry_resumed(const struct region *region, pid_t pid);

#endif
