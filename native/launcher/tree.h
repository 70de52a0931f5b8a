/* SPDX-License-Identifier: Apache-2.0
 *
 * The processes that a restore makes: the members of the tree, a pager for each, the guard, and with --pid ns the init of
 * the namespace. PIDs are those of the launcher's own PID namespace.
 */
#ifndef RESTORER_TREE_H
#define RESTORER_TREE_H
#include <stdbool.h>
#include <sys/types.h>

#include "hot.h"
#include "image.h"
#include "region.h"
#include "userfaults.h"

enum phase {
    PHASE_RESTORING, /* the loader is at work; nothing has run */
    PHASE_RUNNING,   /* the program runs, and the pager brings its memory */
    PHASE_LEAVING,   /* nothing is missing; the pager has to be taken away */
    PHASE_ALONE,     /* no pager any more */
};

/* One process of the image, and who brings its memory. Only the root, member 0, is the launcher's child. */
struct member {
    uint32_t index; /* of its wr_process */
    struct region region;
    struct hot hot;
    struct userfaults userfaults;
    enum phase phase;
    pid_t pid; /* 0 until it is known to be there */
    int pidfd; /* -1 until then */
    bool ended;
    bool ready;   /* waits for go */
    bool loaded;  /* its pager has said so */
    pid_t pager;  /* 0 until it is known, and once it has ended */
    int pager_fd; /* pidfd; -1 likewise */
    bool pager_left;
    int channel;       /* socket to the loader, then the pager; -1 once hung up */
    int channel_child; /* its other end, until the tree has been cloned */
    uint32_t teardown_tries;
    struct departure *departures; /* teardown.c: who may still be in the region */
    size_t departures_count;
    struct seized *seized; /* suspend.c: tasks that are traced until they have left the region */
    size_t seized_count;
};

struct tree {
    struct member *members;
    uint32_t count;
    pid_t init;       /* 0 without --pid ns, and once it has been reaped */
    pid_t guard;      /* 0 until there is one, with --pid ns, and once it has been reaped */
    int guard_link;   /* socket to the guard; -1 without one */
    int init_control; /* socket to the init; -1 without one */
    int root_status;  /* as of waitpid(2), once the root has ended */
};

/* Room for the members of the image, none of which is there yet. */
void tree_init(struct tree *tree, const struct image *image);

struct member *tree_root(const struct tree *tree);

/* Waits, 2 s at most, until no zombie and no session of which only the pager is left has a PID that the image chooses;
 * ends the launcher with a message when one is taken. */
void tree_await_pids(const struct image *image);

/* Makes the root with the image's PID: it runs its main program, which forks the others. */
void tree_clone(struct tree *tree, const struct image *image);

/* What became known of a member, or of its pager; takes the pidfd over. */
void tree_note_born(struct member *member, int pidfd);
void tree_note_pager(struct member *member, int pidfd);

/* Whether the process behind a pidfd has ended; also true of -1. */
bool tree_has_ended(int pidfd);

/* The sum of what all pagers did. */
void tree_count(const struct tree *tree, struct wr_counters *counters);

/* Forgets the pager, which has ended or has just been killed, and waits for its end. */
void tree_end_pager(struct member *member);

/* Kills the members, all that has come from them, the pagers and the init, in that order, and reaps them. */
void tree_kill(struct tree *tree);

/* Kills and reaps the init, which takes along what is left in its namespace. */
void tree_end_init(struct tree *tree);

#endif
