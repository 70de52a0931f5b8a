/* SPDX-License-Identifier: Apache-2.0
 *
 * A look at the meta pages of data.mdb before LMDB maps it: LMDB trusts them, and a file shorter than they
 * say would end in SIGBUS.
 */
#ifndef RESTORER_STORE_META_H
#define RESTORER_STORE_META_H
#include <stdint.h>

struct store_meta {
    uint64_t file_bytes;
    uint64_t used_bytes; /* up to the last page of the newest transaction */
};

/* Returns NULL, or what is wrong with the file. */
const char *store_meta_read(int fd, struct store_meta *meta);

#endif
