/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoded image (`wr_header` and what follows), validated once: whoever uses it later need not check.
 */
#ifndef RESTORER_IMAGE_H
#define RESTORER_IMAGE_H
#include <stdint.h>

#include "options.h"
#include "store.h"
#include "wire.h"

enum image_limits {
    IMAGE_FRAME_BYTES_MAX = 131072, /* above ZSTD_compressBound(WR_CHUNK_BYTES) */
    IMAGE_OPS_MAX = 1 << 24,
};

#define IMAGE_TASK_SIZE UINT64_C(0x7ffffffff000)
#define IMAGE_BYTES_MAX (UINT64_C(1) << 30)

/* `base` moves when the region takes the blob over: everything else is reached through it. */
struct image {
    const char *name;
    uint64_t id;
    uint8_t *base;
    uint64_t bytes; /* decoded size; what is mapped at `base` is this, rounded up to pages */
};

/* Decodes and validates; ends the process with a message otherwise. */
void image_load(struct image *image, const struct store *store, const char *name);

/* Says what is wrong with the blob, or NULL. */
const char *image_invalid(const struct image *image);

const struct wr_header *image_header(const struct image *image);

/* `index` is below the header's processes_count; the root is 0. */
const struct wr_process *image_process(const struct image *image, uint32_t index);

/* The header's pids_count process IDs. */
const int32_t *image_pids(const struct image *image);

/* NULL where there is none: failure records come from memory that the tree can write. */
const struct wr_program *image_program(const struct image *image, uint32_t index);
const struct wr_op *image_op(const struct image *image, const struct wr_program *program, uint32_t index);
const struct wr_object *image_object(const struct image *image, const struct wr_op *op);
const char *image_text(const struct image *image, uint32_t offset);

/* Puts the ports of --publish into the blob; a port that the image does not listen on ends the process. */
void image_publish(const struct image *image, const struct options *options);

#endif
