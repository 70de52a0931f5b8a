/* SPDX-License-Identifier: Apache-2.0
 *
 * Words for a restore that failed in the loader.
 */
#ifndef RESTORER_FAILURE_H
#define RESTORER_FAILURE_H
#include "image.h"
#include "region.h"
#include "tree.h"

/* By the failure record; false when no task has written one. */
bool failure_say(const struct image *image, const struct region *region);

/* By how a process ended (status of waitpid(2)) that should not have; `who` as in "the loader". */
void failure_say_status(const struct region *region, const char *who, int status);

#endif
