/* SPDX-License-Identifier: Apache-2.0
 *
 * One restore, from the command line to the end of the process.
 */
#ifndef RESTORER_LAUNCH_H
#define RESTORER_LAUNCH_H
#include <stdbool.h>
#include <stdint.h>

#include "hot.h"
#include "image.h"
#include "options.h"
#include "region.h"
#include "store.h"
#include "tree.h"

enum phase {
    PHASE_RESTORING, /* the loader is at work; nothing has run */
    PHASE_RUNNING,   /* the program runs, and the pager brings its memory */
    PHASE_LEAVING,   /* nothing is missing; the pager has to be taken away */
    PHASE_ALONE,     /* no pager any more */
};

struct launch {
    uint64_t start_ns;
    struct options options;
    struct store store;
    struct image image;
    struct hot hot;
    struct region region;
    struct tree tree;
    enum phase phase;
    uint64_t resumed_ns; /* 0 before */
    double resume_ms;
    double loaded_ms; /* 0 until the pager has said so */
    uint32_t teardown_tries;
};

#endif
