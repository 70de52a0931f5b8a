/* SPDX-License-Identifier: Apache-2.0
 *
 * From the clone of the target to its end, or in the background to the end of loading.
 */
#ifndef RESTORER_SUPERVISE_H
#define RESTORER_SUPERVISE_H
#include "launch.h"

/* The exit code: the target's, as a shell would give it, or 0 in the background. Every failure ends the
 * process. */
int supervise(struct launch *launch);

#endif
