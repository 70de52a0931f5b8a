/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's own state and the seams between its files:
 *
 *   space.c    which pages are needed, and where (no system calls)
 *   chunk.c    a chunk's bytes from the store into memory
 *   install.c  pages from memory into a space: MOVE, COPY, ZEROPAGE, POISON, and what each errno means
 *   events.c   what the kernel tells: faults, forks, moved and dropped ranges
 *   pager.c    the loop: faults first, then what must be there before resume, then the rest
 *
 * One thread does it all, so there are no locks: what a userfaultfd's owner must keep in order (an event read, then
 * the pages it concerns forgotten, then the next install) is kept in order by being done in order.
 */
#ifndef RESTORER_PAGER_H
#define RESTORER_PAGER_H
#include <stdint.h>

#include "../loader/raw.h"
#include "loader.h"
#include "space.h"

enum {
    FAULTS_MAX = 64,
    SPACES_MAX = 64,
    SPACES_RESERVE = 8, /* free spaces below which children are filled before more events are read */
    VIEWS_RESERVE = 64,
};

struct fault {
    uint64_t addr;
    uint32_t space; /* index in spaces */
};

/* A chunk in memory, decoded: its stored pages in order. */
struct decoded {
    uint64_t record;
    uint8_t *pages;
    int staged; /* 1: in the staging VMA, pages may be moved out of it */
};

struct pager {
    const struct wr_runtime *rt;
    const struct wr_header *header;
    const struct wr_process *process;
    const struct wr_segment *segments;
    const struct wr_record *records;
    uint64_t records_count;
    struct wr_ctl *ctl;
    struct wr_counters *counters;

    struct space *spaces; /* [0] is the process's own */
    uint32_t spaces_count;
    uint32_t spaces_used;
    uint32_t next_number;

    struct fault faults[FAULTS_MAX]; /* a queue: first, count */
    uint32_t faults_first;
    uint32_t faults_count;

    /* A ring of staging slots, one chunk each: slots_ready of them, from slot_next on, have all their pages. */
    uint32_t slots_count;
    uint32_t slots_ready;
    uint32_t slot_next; /* the oldest ready one, taken next */
    uint8_t *buffer;    /* WR_CHUNK_BYTES, always populated: decoded here, pages are copied out */

    void *decoder;       /* ZSTD_DCtx */
    uint64_t eager_next; /* first record that may still be eager */
    int eager_done;
    int resumed;     /* ctl.go was seen set: from here on nobody writes through file-private views */
    int target_gone; /* the process has ended or executed another program */
};

/* ---- chunk.c ---- */

/* 0, or -errno with nothing usable. */
int chunk_init(struct pager *p);

/* Decodes record `index`: into a ready staging slot if `urgent` and there is one, else into the buffer. 0; -EBADMSG:
 * the chunk is not what the index says; other -errno: the store cannot be read. */
int chunk_decode(struct pager *p, uint64_t index, int urgent, struct decoded *decoded);

/* Gives one staging slot all its pages; 0 when every slot has them. */
int chunk_populate_one(struct pager *p);

/* Where page `page` of the record's window lies in the decoded bytes. It must be in the record's mask. */
uint8_t *chunk_page(const struct pager *p, const struct decoded *decoded, uint32_t page);

/* ---- install.c ---- */

/* All pages of `decoded` that the space still needs. 0; -EAGAIN: events must be read first; -ESRCH: the space's mm is gone. */
int install_chunk(struct pager *p, struct space *space, const struct decoded *decoded, uint64_t *installed);

/* Poisons the pages of record `index` that the space needs: SIGBUS for who touches them. */
int install_poison(struct pager *p, struct space *space, uint64_t index);

/* A page that the image does not have. */
int install_zero(struct pager *p, struct space *space, uint64_t addr);

void install_wake(const struct space *space, uint64_t addr, uint64_t bytes);

/* ---- events.c ---- */

/* Reads what a space's userfaultfd has to say: faults are queued, events applied. */
void events_read(struct pager *p, struct space *space);

/* Waits a moment for events of the space, then reads them: after an -EAGAIN. */
void events_settle(struct pager *p, struct space *space);

/* A space whose mm is gone, or which has all its pages. */
void events_release(struct pager *p, struct space *space);

/* ---- pager.c ---- */

/* Brings record `index` to every space that needs it. */
void pager_bring(struct pager *p, uint64_t index, int urgent, uint64_t *counter);

void pager_say(const struct pager *p, uint32_t kind, uint64_t a, uint64_t b, uint64_t c, int fd);

/* Says why, kills the target and goes: without its pages it must not run. */
_Noreturn void pager_lost(struct pager *p, uint32_t what, long error);

#endif
