/* SPDX-License-Identifier: Apache-2.0
 *
 * The resident blob (loader, pager, decoder), which this executable carries.
 */
#ifndef RESTORER_BLOB_H
#define RESTORER_BLOB_H
#include "resident.h"

/* Its table, checked. */
const struct resident *resident_table(void);

/* Copies it to `base`, where resident_table()->memory_bytes are mapped, relocates it and makes its text
 * executable. */
void resident_place(uint64_t base);

#endif
