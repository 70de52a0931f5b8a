/* SPDX-License-Identifier: Apache-2.0
 *
 * --pid ns: a PID namespace with a /proc of its own and a small init, in which the target gets its old PIDs.
 */
#ifndef RESTORER_NAMESPACE_H
#define RESTORER_NAMESPACE_H
#include <sys/types.h>

#include "tree.h"

/* Unshares, and makes the init. The launcher's next children are born in the namespace. */
void namespace_enter(struct tree *tree);

/* Tells the init which process (by its PID in there) it has to outlive. */
void namespace_watch(const struct tree *tree, pid_t pid);

/* The init no longer ends with the launcher. */
void namespace_release(struct tree *tree);

#endif
