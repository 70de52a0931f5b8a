/* SPDX-License-Identifier: Apache-2.0
 *
 * CLOCK_MONOTONIC and CLOCK_BOOTTIME of the tree: the machine's, or in a time namespace those of the checkpoint.
 */
#ifndef RESTORER_CLOCKS_H
#define RESTORER_CLOCKS_H
#include "image.h"
#include "options.h"

/* Before anything is forked that the tree comes from. The clocks go on from the checkpoint if that is asked for, and where
 * they would go back otherwise. */
void clocks_enter(const struct image *image, const struct options *options);

#endif
