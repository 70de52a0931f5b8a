/* SPDX-License-Identifier: Apache-2.0
 *
 * --record: which chunks faults needed, into a file in the store's folder, for `restorer optimize`.
 */
#ifndef RESTORER_RECORDING_H
#define RESTORER_RECORDING_H
#include <stdbool.h>

#include "launch.h"

/* Before the launcher leaves the current folder: a folder that cannot be written ends the restore before it begins. */
void recording_open(const struct options *options);

/* Nothing is filled while faults are recorded, so that each chunk that is needed faults: how long, from resume on, or -1
 * when there is nothing to wait for. */
int recording_wait_ms(const struct launch *launch);

/* Writes what was needed so far, once; then the fill begins. */
void recording_finish(struct launch *launch);

#endif
