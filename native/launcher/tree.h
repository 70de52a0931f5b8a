/* SPDX-License-Identifier: Apache-2.0
 *
 * The processes that the launcher made: the target (the restored process), its pager, and with --pid ns the
 * init of the namespace. PIDs are those of the launcher's own PID namespace.
 */
#ifndef RESTORER_TREE_H
#define RESTORER_TREE_H
#include <stdbool.h>
#include <sys/types.h>

#include "image.h"
#include "region.h"
#include "userfaults.h"

struct tree {
    pid_t target;
    pid_t pager; /* 0 until READY, and once it has been reaped */
    pid_t init;  /* 0 without --pid ns, and once it has been reaped */
    pid_t guard; /* 0 until there is one, with --pid ns, and once it has been reaped */
    int target_pidfd;
    int guard_link;   /* socket to the guard; -1 without one */
    int init_control; /* socket to the init; -1 without one */
    int channel;      /* socket to the loader, then the pager; -1 once hung up */
    struct userfaults userfaults;
    bool target_ended;
    int target_status; /* as of waitpid(2) */
};

/* Makes the target with the image's PID: it runs its main program. */
void tree_clone(struct tree *tree, const struct image *image, const struct region *region);

/* The pager is the one child that the launcher has not made by itself. */
void tree_find_pager(struct tree *tree);

/* Kills the target, all that has come from it, the pager and the init, in that order, and reaps them. */
void tree_kill(struct tree *tree);

/* Kills and reaps the init, which takes along what is left in its namespace. */
void tree_end_init(struct tree *tree);

#endif
