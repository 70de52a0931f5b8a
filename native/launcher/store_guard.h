/* SPDX-License-Identifier: Apache-2.0
 *
 * While the store is parsed, a fault can only come from a damaged or shrinking data.mdb: it is said, and the
 * process ends.
 */
#ifndef RESTORER_STORE_GUARD_H
#define RESTORER_STORE_GUARD_H

void store_guard_begin(const char *path);

/* From here on the handler kills this process first, through its pidfd. */
void store_guard_kills(int pidfd);

/* Default handling again. */
void store_guard_end(void);

#endif
