/* SPDX-License-Identifier: Apache-2.0
 *
 * A space is one mm that lacks pages of the image: the restored process's own, or that of a child it forked while
 * pages were missing. It knows which pages are still needed, and where in the address space they belong by now:
 * the program may have moved (mremap), discarded (madvise) or dropped (munmap) them since the checkpoint.
 *
 * Image addresses are those of the checkpoint; current addresses those the program uses today. Views translate.
 * Pure data: no system calls, so that the host can test it against a model.
 */
#ifndef RESTORER_SPACE_H
#define RESTORER_SPACE_H
#include <stdint.h>

#include "wire.h"

enum { SPACE_SPARE_VIEWS = 4, SPACE_MOVES = 16 };

/* [start, end) of current addresses shows the image from `image` on. */
struct view {
    uint64_t start;
    uint64_t end;
    uint64_t image;
    uint32_t flags; /* enum wr_segment_flags */
    uint32_t pad;
};

/* [from, from + bytes) has come to `to`. */
struct move {
    uint64_t from;
    uint64_t to;
    uint64_t bytes;
};

struct space {
    int uffd;        /* -1: free */
    uint32_t number; /* names the space in messages; 0 is the restored process's own */
    uint32_t views_count;
    uint32_t views_max;
    uint32_t moved;     /* 1: some view is not where its image was */
    uint32_t next;      /* first record the fill has yet to look at */
    uint64_t missing;   /* pages needed and not yet installed */
    uint16_t *need;     /* one mask per record */
    struct view *views; /* sorted by start, disjoint */
    const struct wr_record *records;
    uint64_t records_count;
    struct move left[SPACE_MOVES]; /* moves whose unmap of the old place is still to be read */
    uint32_t left_count;
    uint32_t late_left; /* the unmap of the late move's old place has been read */
    struct move
        late; /* bytes is not 0: onto a place that something has left or unmapped, as is still to be read */
};

/* A part of one record in one place: pages [first, first + count) of the window, at `at`. */
struct run {
    uint64_t at; /* current address */
    uint32_t first;
    uint32_t count;
    uint32_t flags; /* of the view */
};

/* All pages of all records needed, each where the image had it. `views_max` must exceed `segments_count` by
 * SPACE_SPARE_VIEWS; segments that are not lazy are left out. */
void space_init(struct space *space, const struct wr_segment *segments, uint32_t segments_count);

/* The ranges that a forked child finds wiped are these alone, whatever was said before: once space_keep_all, then
 * space_wipe for each. Needs two spare views. */
void space_keep_all(struct space *space);
void space_wipe(struct space *space, uint64_t start, uint64_t end);

/* A forked child: what the parent needs, but nothing of what MADV_WIPEONFORK covers. */
void space_fork(struct space *child, const struct space *parent);

/* The program discarded [start, end): pages there are zeroes from now on. Pages forgotten. */
uint64_t space_discard(struct space *space, uint64_t start, uint64_t end);

/* The program unmapped [start, end). Pages forgotten. Needs one spare view. */
uint64_t space_unmap(struct space *space, uint64_t start, uint64_t end);

/* The program moved [from, from + bytes) to `to`. Pages forgotten. Needs three spare views. */
uint64_t space_remap(struct space *space, uint64_t from, uint64_t to, uint64_t bytes);

/* Views of shared memory, in spaces without records: there every VMA that is watched begins with a view. */

/* The image address that current address `addr` shows; 0 if none is known. */
uint64_t space_shown(const struct space *space, uint64_t addr);

/* The end of the nearest view below `addr`, 0 if there is none; and that this view reaches as far as the page of `addr`: a
 * VMA that grows in place sends no event. */
uint64_t space_below(const struct space *space, uint64_t addr);
void space_grow(struct space *space, uint64_t addr);

/* [from, from + bytes) is now seen at `to` as well: mremap(2) leaves the source in place with an old length of 0, of which
 * the event tells no other length, or with MREMAP_DONTUNMAP; else its UNMAP follows. 0, or -1 without room. */
int space_duplicate(struct space *space, uint64_t from, uint64_t to, uint64_t bytes);

/* Whether some view shows a part of [start, end) of image addresses. */
int space_shows(const struct space *space, uint64_t start, uint64_t end);

/* Drops the views through which nothing is missing: every mremap of a part adds two, and none ever goes by itself. */
void space_prune(struct space *space);

/* Room for another event without losing track. */
int space_has_room(const struct space *space);

/* The record that holds the image of current address `addr` and still needs that page, or -1. */
int64_t space_wanted(const struct space *space, uint64_t addr);

/* Whether any view lies in a part of [start, end), of current addresses. */
int space_covers(const struct space *space, uint64_t start, uint64_t end);

/* The next run of needed pages of record `index`, from page `from` on. 0 if there is none. Pages that no view shows
 * any more are forgotten on the way. */
int space_next_run(struct space *space, uint64_t index, uint32_t from, struct run *run);

/* The pages of record `index` that are needed. */
uint16_t space_needed(const struct space *space, uint64_t index);

/* Pages [first, first + count) of record `index` are no longer needed; gives how many of them were. Two threads may do this
 * at once, and one may look at what is needed meanwhile. All else wants a thread that is alone with the space. */
uint32_t space_settle(struct space *space, uint64_t index, uint32_t first, uint32_t count);

/* Where the program sees the image's [image, image + bytes), if it does so in one piece, and that piece's flags; 0 if not. */
uint64_t space_place(const struct space *space, uint64_t image, uint64_t bytes, uint32_t *flags);

/* Index of the record whose window holds image address `addr`, or of the next one above; records_count if none. */
uint64_t space_record_at(const struct space *space, uint64_t addr);

#endif
