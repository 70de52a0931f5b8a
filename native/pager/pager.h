/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's own state and the seams between its files:
 *
 *   space.c    which pages are needed, and where (no system calls)
 *   decode.c   frames of the store into pages
 *   chunk.c    where a chunk is decoded to, and the staging slots for it
 *   batch.c    chunks of the fill, decoded by whoever is free, installed by the pager
 *   mutex.h    a lock
 *   worker.c   what the pager's other threads have in common
 *   ahead.c    a thread that decodes batches and populates staging, and installs nothing
 *   storm.c    a thread that installs while the program does nothing but wait
 *   cost.c     what MOVE and COPY cost, and which is taken
 *   install.c  pages from memory into a space: MOVE, COPY, ZEROPAGE, POISON, and what each errno means
 *   events.c   what the kernel tells: faults, forks, moved and dropped ranges
 *   fault.c    one fault, from the queue to its answer
 *   shared.c   shared memory, which the pagers of a tree bring together
 *   shared_events.c   what the kernel tells of it
 *   hot.c      the working set of earlier restores, block by block
 *   trace.c    what happened, in memory shared with the launcher
 *   pager.c    the loop: faults first, then what must be there before resume, then the rest
 *
 * What a userfaultfd's owner must keep in order (an event read, then the pages it concerns forgotten, then the next
 * install) is kept in order by being done in order, in one thread; the one that storm.c adds installs under a lock, which
 * that thread holds while it reads events. storm.c says which memory the two share.
 */
#ifndef RESTORER_PAGER_H
#define RESTORER_PAGER_H
#include <stdint.h>

#include "../loader/raw.h"
#include "loader.h"
#include "space.h"

enum {
    BATCH_RECORDS = WR_HUGE_BYTES / WR_CHUNK_BYTES,
    FAULTS_MAX = 64,
    SPACES_MAX = 64,
    SPACES_RESERVE = 8, /* free spaces below which everything is filled, children first */
    SPACES_LAST = 4,    /* free spaces that only children's own children may use */
    VIEWS_RESERVE = 64,
};

struct fault {
    uint64_t addr;
    uint64_t tsc;   /* when its message was read */
    uint32_t space; /* index in spaces */
    uint32_t tid;
    struct space *shared; /* instead of spaces[space]: of shared memory */
};

/* A chunk in memory, decoded. */
struct decoded {
    uint64_t record;
    uint8_t *pages;
    int staged; /* 1: in the staging VMA, pages may be moved out of it */
    int spread; /* 1: its pages lie as in its window; 0: those that are stored, one behind the other */
};

/* All of one piece of shared memory that this process has. */
struct window {
    uint64_t start;
    uint64_t end;
    uint64_t first; /* records [first, last) lie in it */
    uint64_t last;
    uint64_t next;  /* no record below is needed any more */
    uint64_t claim; /* those below are taken on by somebody */
    int held;       /* 0: nobody sees it any more; it is unmapped */
};

struct shared {
    struct wr_shared *common; /* NULL without shared memory that comes lazily */
    const struct wr_record *records;
    uint16_t *need; /* one mask a record, shared by all pagers; bits are cleared under common->lock */
    uint8_t *taken; /* one a record: some pager's fill has taken it on */
    uint64_t records_count;
    struct window *windows; /* sorted */
    uint32_t windows_count;
    struct space *spaces; /* [0] is the process's own; without records, views only */
    uint32_t spaces_count;
    uint32_t spaces_used;
    struct space window; /* its userfaultfd is that of the windows */
    uint8_t *buffer;     /* WR_CHUNK_BYTES; the pager's own one may be in use when an event is read */
};

/* What one thread needs to turn frames into pages. */
struct decoder {
    uint8_t *memory;  /* wr_runtime.decoder_bytes */
    uint8_t *input;   /* wr_runtime.input_bytes */
    uint8_t *packed;  /* WR_CHUNK_BYTES: a chunk that has to be spread */
    void *zstd;       /* ZSTD_DCtx in `memory` */
    uint64_t read_at; /* time stamp of the end of the last read */
};

enum take { TAKE_FREE = 0, TAKE_TAKEN = 1, TAKE_DONE = 2 };
enum populated { POPULATED_NOT = 0, POPULATED_SOON = 1, POPULATED = 2 };

/* The records of one 2 MiB window that the fill brings next. Pager and decoding thread take them one by one; the pager
 * installs them when the last is done, and uses the batch for another window then. */
struct batch {
    uint8_t *memory; /* WR_HUGE_BYTES, aligned to that */
    uint64_t window; /* image address, aligned to WR_HUGE_BYTES */
    uint64_t first;  /* records [first, first + count) lie in the window */
    uint32_t count;  /* 0: the batch is free */
    uint32_t order;  /* older batches have lower ones */
    uint32_t
        spread; /* 1: pages lie as in the window; 0: record i of the batch is packed at i * WR_CHUNK_BYTES */
    uint32_t whole;               /* 1: all of it may be moved as one huge page */
    uint32_t dirty;               /* 1: the memory is not all zeroes */
    uint32_t broken;              /* 1: some of the memory has been moved away */
    uint32_t populated;           /* enum populated */
    uint32_t done;                /* records that are TAKE_DONE */
    uint32_t installed;           /* records below have been installed */
    uint32_t take[BATCH_RECORDS]; /* enum take; TAKE_DONE where there is no record */
    int results[BATCH_RECORDS];   /* of decoder_run; -EAGAIN: not decoded into the batch */
};

/* A thread beside the pager's own. */
struct worker {
    uint32_t stop;
    uint32_t bell; /* futex: something has changed for the thread */
    uint32_t asleep;
    uint32_t usable;
    struct decoder decoder;
};

/* The thread that decodes ahead. */
struct ahead {
    struct worker worker;
    int resting; /* slots enough are populated */
};

/* The thread that installs while the program only waits; storm.c says who may touch what. */
struct storm {
    struct worker worker;
    uint32_t lock;   /* futex: 0 free, 1 held, 2 held and waited for */
    int32_t level;   /* of faults that came at once after the answer to the one before */
    uint32_t stalls; /* how often the pager has waited for it for long */
    uint32_t on;     /* 1: it may work, while `last` is a moment ago */
    uint32_t begun;
    uint64_t last;  /* when a fault was last begun or answered */
    uint64_t pages; /* installed and not counted yet */
    uint64_t first; /* records [first, end) are those of the window it is at, from `next` on */
    uint64_t next;
    uint64_t end;
};

/* Averages for a page, see cost.c; 0: not known yet. */
struct costs {
    uint64_t copy;
    uint64_t move;     /* of pages that wait in staging */
    uint64_t populate; /* written by the thread that works ahead */
};

struct pager {
    const struct wr_runtime *rt;
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

    /* A ring of staging slots, one chunk each: those from slots_taken to slots_populated have all their pages. */
    uint32_t slots_count;
    uint32_t slots_populated; /* written by the thread that decodes ahead */
    uint32_t slots_taken;
    uint8_t *buffer; /* WR_CHUNK_BYTES, always populated: decoded here, pages are copied out */

    struct shared shared;

    struct decoder decoder;
    struct ahead ahead;
    struct storm storm;
    uint32_t storm_locks; /* how often the pager has taken it */
    struct batch batches[WR_BATCHES];
    uint32_t batches_opened;
    uint64_t batch_next; /* records below are in a batch, or were not needed */
    uint32_t huge_dear;  /* a huge page costs more than copying its 512 pages does */
    struct costs costs;

    struct space *urgent; /* where a thread waits for the page at `urgent_addr`, or NULL */
    uint64_t urgent_addr;
    uint64_t eager_next; /* first record that may still be eager */
    int index_ready;     /* ctl.index_ready was seen set */

    const struct wr_hot *hot;             /* NULL without a working set */
    uint32_t hot_blocks;                  /* 0 once one of them was bad */
    uint32_t hot_next;                    /* block to be opened next */
    const struct wr_hot_block *hot_open;  /* its chunks lie decoded in rt->hot_buffer, or NULL */
    uint32_t hot_chunk;                   /* of the open block: the next one to install */
    uint32_t hot_at[WR_HOT_BLOCK_CHUNKS]; /* where in the buffer each of its chunks begins */

    struct wr_trace *trace;
    struct wr_fault traced;                                /* the fault being handled */
    uint64_t traced_at;                                    /* time stamp of its last phase */
    uint64_t traced_moved, traced_copied, traced_poisoned; /* counters before it */
    uint64_t traced_count;
    uint64_t used_count;

    int crowded;    /* spaces have run short once: whatever the policy, all that is missing is brought */
    uint32_t stuck; /* turns in which nothing could be done for want of spaces */
    int eager_done;
    int resumed;     /* ctl.go was seen set: from here on nobody writes through file-private views */
    int failing;     /* the launcher is gone: nobody answers, nobody else can be waited for */
    int target_gone; /* the process has ended or executed another program */
};

/* ---- decode.c ---- */

/* 0, or -ENOMEM when `memory` is too small for zstd. */
int decoder_init(const struct pager *p, struct decoder *decoder);

/* Reads a frame of the store to `input`. 0; -EBADMSG: it is larger than `room`, or has no end; other -errno: the store
 * cannot be read. */
long decoder_read(struct pager *p, uint8_t *input, uint64_t room, uint64_t where, uint32_t frame_bytes);

/* Decodes a frame that decoder_read has read to the `bytes` at `to`. 0; -EBADMSG: it is not the one with this check, or has
 * not so many bytes. */
int decoder_frame(struct decoder *decoder, const uint8_t *frame, uint32_t frame_bytes, uint32_t check,
                  uint8_t *to, uint64_t bytes);

/* Both for record `index`, to `pages` (WR_CHUNK_BYTES). Errors as chunk_decode. */
int decoder_run(struct pager *p, struct decoder *decoder, uint64_t index, uint8_t *pages);

/* The same for any record, wherever its index lies. */
int decoder_record(struct pager *p, struct decoder *decoder, const struct wr_record *record, uint8_t *pages);

/* ---- chunk.c ---- */

/* 0, or -errno with nothing usable. */
int chunk_init(struct pager *p);

/* Decodes record `index`: into a ready staging slot if `urgent` and there is one, else into the buffer. 0; -EBADMSG:
 * the chunk is not what the index says; other -errno: the store cannot be read. */
int chunk_decode(struct pager *p, uint64_t index, int urgent, struct decoded *decoded);

/* How many staging slots wait to be taken. */
uint32_t chunk_slots_ready(const struct pager *p);

/* Gives one staging slot all its pages: for the thread that decodes ahead. */
void chunk_populate_one(struct pager *p);

/* Where page `page` of the record's window lies in the decoded bytes. It must be in the record's mask. */
uint8_t *chunk_page(const struct pager *p, const struct decoded *decoded, uint32_t page);

/* The same by the record's mask. */
uint8_t *chunk_place(uint16_t mask, uint8_t *pages, uint32_t page);

/* ---- cost.c ---- */

/* Adds what `pages` pages have cost to one of the averages. */
void cost_note(uint64_t *average, uint64_t cycles, uint64_t pages);

/* What copying so many would take, in cycles. */
uint64_t cost_of_copies(const struct pager *p, uint64_t pages);

/* Whether moving pages out of staging costs less than copying them; `replacing`: including new ones for staging, which cost
 * nothing as long as the thread that makes them has nothing else to do. */
int cost_move_pays(const struct pager *p, int replacing);

/* The same for a fault; now and then the dearer way, so that it stays known. */
int cost_choose_move(const struct pager *p, int replacing);

/* ---- batch.c ---- */

void batch_init(struct pager *p);

/* Installs a chunk that is decoded, or opens the next batch; 0 if neither can be done now. */
int batch_advance(struct pager *p, uint64_t *counter);

/* One step of the fill of the process's own space: 0 when nothing of it is left to do here. */
int batch_step(struct pager *p, uint64_t *counter);

/* The window, aligned to WR_HUGE_BYTES, that a record lies in. */
uint64_t batch_window_of(const struct pager *p, uint64_t record);

/* Whether there is one that is not installed yet. */
int batch_any(const struct pager *p);

/* For the thread that decodes ahead: populates the memory of a batch or decodes a record; 0 when there is none. */
int batch_help(struct pager *p, struct decoder *decoder);

/* The batch that has taken on `record` and its place in it, NULL when there is none. */
struct batch *batch_find(struct pager *p, uint64_t record, uint32_t *place);

/* Takes on a record that nobody has begun with; 0 if somebody has. batch_finish must follow, with -EAGAIN if the record
 * was decoded elsewhere. */
int batch_take(struct batch *batch, uint32_t place);
void batch_finish(struct batch *batch, uint32_t place, int result);

/* The record at `place` as decoded into the batch, its result; -EAGAIN: it is not there. */
int batch_decoded(struct pager *p, struct batch *batch, uint32_t place, struct decoded *decoded);

/* ---- worker.c ---- */

/* Cuts what the thread needs from zeroed `memory`; gives the bytes used. */
uint64_t worker_init(const struct pager *p, struct worker *worker, uint8_t *memory);

/* There may be work for the thread. */
void worker_ring(struct worker *worker);

/* Returns when the thread, whose ID is in the futex `word`, has gone. */
void worker_stop(struct worker *worker, uint32_t *word);

/* The thread: does `work` for as long as that gives 1, then sleeps until it is rung for. */
_Noreturn void worker_run(struct pager *p, struct worker *worker, int (*work)(struct pager *p));

/* ---- storm.c ---- */

/* What lies between them happens while the second thread installs nothing. They nest. */
void storm_lock(struct pager *p);
void storm_unlock(struct pager *p);

/* Around the answer to a fault. */
void storm_begin(struct pager *p, const struct fault *fault);
void storm_end(struct pager *p);

/* Whether the program has faulted again and again, and a moment ago. */
int storm_now(const struct pager *p);

/* Adds what the second thread has installed to the counters. */
void storm_account(struct pager *p);

/* ---- fault.c ---- */

/* Answers the first fault of the queue. */
void fault_one(struct pager *p);

/* ---- hot.c ---- */

void hot_init(struct pager *p);

/* Installs the next chunk of the working set; 0 when there is none left. */
int hot_one(struct pager *p, uint64_t *counter);

/* Whether some of what must be there before resume is still to come out of the working set. */
int hot_eager(const struct pager *p);

/* Installs chunk `record` if it lies in the block that is decoded; 0 if not. */
int hot_fault(struct pager *p, uint64_t record, uint64_t *counter);

/* ---- trace.c ---- */

uint64_t trace_now(void);

/* A fault from its turn to its answer: begin, used when it is known which chunk it needs, phase at the end of each
 * phase, end. WR_PATH_NOTHING: told from the counters. */
void trace_begin(struct pager *p, const struct fault *fault);
void trace_used(struct pager *p, uint64_t record);
void trace_phase(struct pager *p, uint32_t phase, uint64_t now);
void trace_end(struct pager *p, uint32_t path);

/* ---- install.c ---- */

/* UFFDIO_COPY: bytes done, or -errno if none. */
long install_copy(const struct space *space, uint64_t to, const uint8_t *from, uint64_t bytes);

/* All pages of `decoded` that the space still needs. 0; -EAGAIN: events must be read first; -ESRCH: the space's mm is gone. */
int install_chunk(struct pager *p, struct space *space, const struct decoded *decoded, uint64_t *installed);

/* All of WR_HUGE_BYTES at `from`, which is one huge page, to `to` in the process's own space. Bytes done, -errno. */
long install_huge(struct pager *p, uint64_t to, const uint8_t *from);

/* Poisons the pages of record `index` that the space needs: SIGBUS for who touches them. */
int install_poison(struct pager *p, struct space *space, uint64_t index);

/* A page that the image does not have. */
int install_zero(struct pager *p, struct space *space, uint64_t addr);

/* Whether an event of the space waits to be read, or its thread has not gone on yet: installs get EAGAIN. */
int install_must_wait(const struct pager *p, const struct space *space);

/* Whether every process that used the space's mm has ended. */
int install_gone(const struct pager *p, const struct space *space);

void install_wake(const struct space *space, uint64_t addr, uint64_t bytes);

/* ---- shared.c ---- */

/* Cuts what it needs from zeroed `pool`; gives the bytes used. */
uint64_t shared_init(struct pager *p, uint8_t *pool, uint64_t pool_bytes);

/* Brings one record that must be there before resume, with `all` any; 0 when there is none. */
int shared_eager_one(struct pager *p, int all);

/* Brings one record that is left; 0 when there is none. */
int shared_fill_one(struct pager *p);

/* Answers a fault of shared memory. */
void shared_fault(struct pager *p, const struct fault *fault);

/* Whether nothing is missing of what this process has a window on. */
int shared_loaded(struct shared *shared);

/* The same, or that nobody is left who could miss it. */
int shared_complete(struct pager *p);

/* There is room for one child more: if need be, all is brought, so that no child needs any. */
void shared_make_room(struct pager *p);

/* Unmaps the windows, once all is there. */
void shared_finish(struct pager *p);

/* Unmaps those of which neither the process nor a child sees any part any more. */
void shared_drop_unseen(struct pager *p);

void shared_lock(struct pager *p);
void shared_unlock(struct pager *p);

/* The first record at or above image address `addr`. */
uint64_t shared_record_at(const struct shared *shared, uint64_t addr);

/* The pages of a record that lie in [start, end). */
uint16_t shared_pages_within(const struct wr_record *record, uint64_t start, uint64_t end);

/* ---- shared_events.c ---- */

/* Reads one message of the space: a fault is queued, an event applied. */
void shared_read(struct pager *p, struct space *space);

/* A space whose mm is gone, or which has all its pages. */
void shared_release(struct pager *p, struct space *space);

/* Poisons what the spaces lack. */
void shared_poison(struct pager *p);

/* Releases the children that have ended. */
void shared_reap(struct pager *p);

/* ---- events.c ---- */

/* A fault that finds the queue full is woken instead: the thread faults again. */
void events_queue(struct pager *p, struct space *space, const struct fault *fault);

/* Whether a space may be read from: every message may be a fork, for which there must be room. Who is not read from
 * waits, the forking thread with it. */
int events_readable(const struct pager *p, const struct space *space);

/* Reads what a space's userfaultfd has to say, if it may: faults are queued, events applied. */
void events_read(struct pager *p, struct space *space);

/* Waits a moment for events, then reads them: after an -EAGAIN of the space. 0 if it may not be read from. Those of shared
 * memory are read too: a fork has an event for each userfaultfd of the process, but sends the second one only when the
 * first has been read (dup_userfaultfd_complete). */
int events_settle(struct pager *p, struct space *space);

/* Whether all moves that were read have taken effect; 0: it is not known yet what lies where, installs would be refused. */
int events_settled(struct pager *p, struct space *space);

uint32_t events_free_spaces(const struct pager *p);

/* A space whose mm is gone, or which has all its pages. */
void events_release(struct pager *p, struct space *space);

/* Releases the children that have ended. The kernel tells of no end of an mm: they are asked for. */
void events_reap(struct pager *p);

/* ---- pager.c ---- */

/* Waits until the word is set by the launcher or by another pager; ends the program with the launcher. */
void pager_await(struct pager *p, uint32_t *word, uint32_t while_equal);

/* Whether the fill of the process's own space may go on, no other needing the same pages. */
int pager_may_fill_own(struct pager *p);

/* Whether some space lacks a page of the record. */
int pager_needs(const struct pager *p, uint64_t record);

/* Decoded pages into every space that needs them. */
void pager_install(struct pager *p, const struct decoded *decoded, uint64_t *counter);

/* What became of decoding a chunk: its pages into every space that needs them, or poison there. */
void pager_deliver(struct pager *p, int result, const struct decoded *decoded, uint64_t *counter);

/* Brings record `index` to every space that needs it. */
void pager_bring(struct pager *p, uint64_t index, int urgent, uint64_t *counter);

void pager_say(uint32_t kind, uint64_t a, uint64_t b, uint64_t c, int fd);

/* Asks the launcher, and waits for `ready`, which it sets once it has answered in wr_ctl. */
void pager_ask(struct pager *p, uint32_t kind, uint64_t about, uint32_t *ready);

/* `child` is that of a forked process. The launcher gets a copy of its userfaultfd: should we die, the child's missing pages
 * must not turn into zeroes before the launcher has killed it. */
void pager_adopt(struct pager *p, struct space *child, int uffd);

/* Says why, kills the target and goes: without its pages it must not run. */
_Noreturn void pager_lost(uint32_t what, long error);

#endif
