/* SPDX-License-Identifier: Apache-2.0
 *
 * zstd frames of the store. Ends the process with a message when a frame is damaged.
 */
#ifndef RESTORER_FRAME_H
#define RESTORER_FRAME_H
#include "store.h"

/* The last four bytes of a frame: zstd's checksum of the content, which binds the frame to whoever names
 * it. */
uint32_t frame_check(struct bytes frame);

/* The decoded size that the frame's header states; a frame that states none or more than `limit` is
 * damaged. */
uint64_t frame_content_bytes(const struct store *store, const char *what, struct bytes frame, uint64_t limit);

/* Decodes exactly `bytes` to `to`. */
void frame_decode(const struct store *store, const char *what, struct bytes frame, void *to, uint64_t bytes);

#endif
