/* SPDX-License-Identifier: Apache-2.0
 *
 * The guard: a child of the launcher that does nothing but hold duplicates of the userfaultfds while memory is missing,
 * and end the program when the launcher has died. Launcher and pager may be killed at one stroke; without a third
 * holder the program's missing pages would then read as zeroes.
 *
 * With --pid ns there is none: the init of the namespace dies with the launcher, and all in it with the init.
 */
#ifndef RESTORER_GUARD_H
#define RESTORER_GUARD_H
#include "tree.h"

/* Once the launcher holds the program's userfaultfd, and again whenever the guard has ended. */
void guard_start(struct tree *tree);

/* A forked child's userfaultfd, for the guard to hold as well. */
void guard_hold(const struct tree *tree, int fd);

/* Nothing is missing any more: the guard ends. */
void guard_dismiss(struct tree *tree);

#endif
