/* SPDX-License-Identifier: Apache-2.0
 *
 * One restore, from the command line to the end of the tree.
 */
#ifndef RESTORER_LAUNCH_H
#define RESTORER_LAUNCH_H
#include <stdbool.h>
#include <stdint.h>

#include "image.h"
#include "options.h"
#include "store.h"
#include "tree.h"

struct launch {
    uint64_t start_ns;
    struct options options;
    struct store store;
    struct image image;
    struct tree tree;
    bool shared_begun;
    enum phase phase;    /* of the tree: RUNNING until the last process is ALONE */
    uint64_t resumed_ns; /* 0 before */
    double resume_ms;
    double loaded_ms; /* 0 until all pagers have said so */
};

#endif
