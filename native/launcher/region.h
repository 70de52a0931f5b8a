/* SPDX-License-Identifier: Apache-2.0
 *
 * The region: everything that loader and pager need, at an address that is free in the image, built here and
 * inherited by the child.
 */
#ifndef RESTORER_REGION_H
#define RESTORER_REGION_H
#include <stdint.h>

#include "hot.h"
#include "image.h"
#include "options.h"
#include "resident.h"
#include "wire.h"

/* Addresses that are the same in the launcher, the restored process and its pager. */
struct region {
    struct wr_runtime *runtime;
    struct wr_ctl *ctl;     /* MAP_SHARED */
    struct wr_trace *trace; /* MAP_SHARED */
    uint64_t *slots;
    struct wr_record *records; /* MAP_SHARED */
    uint64_t start;
    uint64_t end; /* exclusive */
    uint64_t pager_stack, pager_stack_bytes, pager_tls, scratch;
    run_fn run;
    start_fn enter;
};

/* Maps the region of process `index` and fills in what lies where. The image's memory moves into the first one, that of
 * the root; the others, to which `root` is given, have copies of it. */
void region_build(struct region *region, const struct region *root, struct image *image, uint32_t index,
                  const struct hot *hot, const struct options *options);

/* Once the page index of the first process is there: what all pagers know to be needed of shared memory. */
void region_share(const struct region *root);

/* Once `where` of all its records is resolved. */
void region_share_index(const struct region *root);

/* Tells `region` where that of process `index` lies, which one of its own programs may fork. */
void region_link(const struct region *region, uint32_t index, const struct region *other);

#endif
