/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h: the one contract between Python (which writes images), the launcher (which opens them),
 * the loader (which runs their programs) and the pager (which brings their memory).
 *
 * Everything is little-endian x86-64, naturally aligned, without pointers. Names start with wr_/WR_.
 * Python reads this file through cffi after the preprocessor lines are taken out, so: plain structs,
 * enums and fixed-width integers only; no expressions with sizeof, no bit-fields, no macros that matter.
 * Whoever changes a structure bumps WR_VERSION, docs/format.md and the golden file in one commit.
 */
#ifndef RESTORER_WIRE_H
#define RESTORER_WIRE_H
#include <stdint.h>

enum wr_limits {
    WR_VERSION = 3,
    WR_ARGS = 6,
    WR_BASES = 8,
    WR_PAGE_BYTES = 4096,
    WR_CHUNK_PAGES = 16,
    WR_CHUNK_BYTES = 65536,
    WR_BATCHES = 3,
    WR_HUGE_BYTES = 2097152, /* what one huge page of x86-64 holds */
    WR_NO_SLOT = 0xffff,
    WR_NO_OBJECT = 0xffff,
    WR_SLOTS = 32768,            /* slots in the region, 8 bytes each */
    WR_FD_BASE_MIN = 64,         /* the image's own fd_base is at least this */
    WR_HOT_BLOCK_BYTES = 262144, /* a block of the working set decodes to at most this */
    WR_HOT_BLOCK_CHUNKS = 64,    /* and holds at most as many chunks: one page each */
};

/* ---------------------------------------------------------------- frames */

enum wr_frame {
    WR_LZ4_MAGIC = 0x344c5352, /* "RSL4"; a frame that begins otherwise is zstd's */
};

/* The head of an LZ4 frame: one LZ4 block follows, then the low half of XXH3's 64 bits of all that. */
struct wr_lz4 {
    uint32_t magic;
    uint32_t content_bytes;
};

/* ---------------------------------------------------------------- programs */

enum wr_arg_kind {
    WR_IMM = 0,  /* value */
    WR_SLOT = 1, /* slots[slot] + value */
    WR_DATA = 2, /* address of the image in the region + value */
    WR_CTL = 3,  /* address of struct wr_ctl in the region + value */
    WR_TREE = 4, /* address of struct wr_tree in the region + value */
};

struct wr_arg {
    uint64_t value;
    uint16_t kind; /* enum wr_arg_kind */
    uint16_t slot;
    uint32_t pad;
};

enum wr_op_kind {
    WR_OP_SYSCALL = 1,   /* nr(args...) */
    WR_OP_STORE = 2,     /* *(args[0]) = args[1], args[2] bytes wide (1, 2, 4, 8) */
    WR_OP_LOAD = 3,      /* result = *(args[0]), args[1] bytes wide (1, 2, 4, 8), zero-extended */
    WR_OP_CHECK_EQ = 4,  /* fail with EINVAL unless args[0] == args[1] */
    WR_OP_CHECK_GE = 5,  /* fail with EINVAL unless args[0] >= args[1], unsigned */
    WR_OP_CHECK_MEM = 6, /* fail with EINVAL unless args[2] bytes at args[0] and args[1] are the same */
    WR_OP_ADD = 7,       /* atomically *(u32 *)args[0] += args[1], then FUTEX_WAKE all, shared */
    WR_OP_WAIT = 8,      /* FUTEX_WAIT until *(u32 *)args[0] >= args[1] */
    WR_OP_SPAWN = 9,     /* clone3(args[0] = struct clone_args *, args[1] = its size); the child runs
                                   program args[2] on the stack named there; the result is the tid */
    WR_OP_ENTER = 10,    /* rt_sigreturn with rsp = args[0] (address of a struct ucontext); no return */
    WR_OP_PAGER = 11,    /* become the pager of wr_process args[0]; no return */
    WR_OP_EXIT = 12,     /* exit_group(args[0]); no return */
    WR_OP_AHEAD = 13,    /* become the thread that decodes ahead for the pager; no return */
    WR_OP_FORK =
        14, /* clone3(args[0], args[1]) without CLONE_VM; the child runs program args[2] in the region
                                   of wr_process args[3], on the stack that the program names; the result is the PID */
    WR_OP_SKIP_EQ = 15, /* when args[0] == args[1] the next args[2] ops are left out */
    WR_OP_STORM =
        16, /* become the thread that installs for the pager while the program only waits; no return */
};

enum wr_expect {
    WR_EXPECT_OK = 0,    /* the result is no error (not in [-4095, -1]) */
    WR_EXPECT_EXACT = 1, /* the result equals `expected` */
    WR_EXPECT_ANY = 2,   /* whatever comes */
    WR_EXPECT_OK_OR = 3, /* no error, or exactly `expected` (a negative errno) */
};

enum wr_op_flags {
    WR_NR_FROM_SLOT = 1, /* the syscall number is slots[nr] */
    WR_FILE_CHECK = 2,   /* a comparison of a file with what it was: left out by --force-files */
};

struct wr_op {
    uint8_t kind;    /* enum wr_op_kind */
    uint8_t expect;  /* enum wr_expect */
    uint16_t flags;  /* enum wr_op_flags */
    uint16_t result; /* slot for the result, or WR_NO_SLOT */
    uint16_t object; /* index in the object table, or WR_NO_OBJECT */
    uint32_t nr;     /* syscall number, or a slot with WR_NR_FROM_SLOT */
    uint32_t pad;
    int64_t expected;
    struct wr_arg args[6];
};

/* What an op is about, for the message when it fails: offsets of NUL-terminated UTF-8 in the image. */
struct wr_object {
    uint32_t text_offset; /* "fd 5: /srv/app.log" */
    uint32_t hint_offset; /* the way out: "put the file back, or use --force-files"; may point at "" */
};

struct wr_program {
    uint32_t ops_offset; /* in the image, 8-byte aligned */
    uint32_t ops_count;
    uint32_t name_offset; /* "main 1234", for plan and messages */
    uint32_t
        stack_offset; /* image offset just above the loader stack of this task, 16-byte aligned; 0 = launcher's */
};

/* Slots that the launcher fills before the first op runs; Python's own start at WR_SLOT_FIRST. */
enum wr_slot {
    WR_SLOT_REGION = 0, /* first address of the region */
    WR_SLOT_REGION_BYTES = 1,
    WR_SLOT_REGION_END = 2, /* exclusive */
    WR_SLOT_TAIL_BYTES = 3, /* TASK_SIZE (0x7ffffffff000) - region end */
    WR_SLOT_VVAR = 4,       /* where the launcher's vvar/vvar_vclock/vdso lie, one contiguous block */
    WR_SLOT_VVAR_BYTES = 5,
    WR_SLOT_VVAR_VCLOCK = 6, /* 0 and 0 bytes where the kernel has none */
    WR_SLOT_VVAR_VCLOCK_BYTES = 7,
    WR_SLOT_VDSO = 8,
    WR_SLOT_VDSO_BYTES = 9,
    WR_SLOT_SCRATCH = 10, /* address of WR_SCRATCH_BYTES inside the region, for anything to be parked at */
    WR_SLOT_UFFD_NR = 11, /* how to make a userfaultfd: a syscall number and three arguments */
    WR_SLOT_UFFD_ARG0 = 12,
    WR_SLOT_UFFD_ARG1 = 13,
    WR_SLOT_UFFD_ARG2 = 14,
    WR_SLOT_UFFD_FEATURES = 15, /* what to ask UFFDIO_API for */
    WR_SLOT_CHANNEL = 16,       /* fd: SOCK_SEQPACKET to the launcher, speaks struct wr_message */
    WR_SLOT_DATA_FD = 17,       /* fd: data.mdb, read-only */
    WR_SLOT_STDIN = 18,         /* fds at or above fd_base: the launcher's stdio */
    WR_SLOT_STDOUT = 19,
    WR_SLOT_STDERR = 20,
    WR_SLOT_PIDFD = 21, /* fd: pidfd of the restored process (wr_process 0), opened by its own program */
    WR_SLOT_PAGER_STACK = 22, /* lowest address of the pager's stack */
    WR_SLOT_PAGER_STACK_BYTES = 23,
    WR_SLOT_PAGER_TLS = 24, /* FS base for the pager */
    WR_SLOT_CTL = 25,       /* address of struct wr_ctl */
    WR_SLOT_NEW_IPC = 26,   /* CLONE_NEWIPC with --pid ns, else 0: for those who bring objects of IPC */
    WR_SLOT_FIRST = 32,
};

enum wr_region_limits {
    WR_SCRATCH_BYTES = 131072,
};

/* ---------------------------------------------------------------- the image */

/* One restored process; parents come before their children, and the first is the root of the tree. Zombies and other
 * processes without memory of their own are not among them: they are forks that run a program and end. */
struct wr_process {
    int32_t pid;           /* as the program saw it (innermost PID namespace) */
    uint32_t main_program; /* indices in the program table */
    uint32_t pager_program;
    uint32_t threads;       /* number of tasks that end in WR_OP_ENTER */
    uint64_t map_id;        /* key in `maps` */
    uint32_t records_count; /* records in that value */
    uint32_t map_check;     /* the last four bytes of that value's zstd frame */
    uint64_t vdso_syscall;  /* address of a `syscall` instruction in the restored vDSO, for the teardown */
    uint32_t flags;         /* enum wr_process_flags */
    uint32_t segments_count;
    uint32_t segments_offset; /* struct wr_segment[], sorted by start */
    uint32_t
        channel_slot;  /* the slot, the same in all regions, where the launcher puts the fd of its channel */
    uint64_t bases[8]; /* where its region may lie: page-aligned starts of holes, best first, 0 = none */
    uint64_t base_bytes[8]; /* how large each hole is */
};

enum wr_process_flags {
    WR_PROCESS_STOPPED = 1,      /* was in group-stop: resumes stopped (T), SIGCONT lets it go */
    WR_PROCESS_DEATH_SIGNAL = 2, /* has a parent-death signal: its launcher must not end before it */
};

/* A VMA that the pager must know: where it may fault, and how pages get in. */
struct wr_segment {
    uint64_t start;
    uint64_t end; /* exclusive */
    uint64_t
        image; /* the address in a page index of what is seen at start: start itself but for WR_SEGMENT_SHARED */
    uint32_t flags; /* enum wr_segment_flags */
    uint32_t prot;  /* PROT_* the VMA has once restored */
};

enum wr_segment_flags {
    WR_SEGMENT_LAZY = 1,  /* registered with userfaultfd, MISSING */
    WR_SEGMENT_WRITE = 2, /* not registrable (file-private): pages are written by memcpy, all eager */
    WR_SEGMENT_MOVE = 4,  /* anonymous, exactly READ|WRITE, not mlocked: UFFDIO_MOVE can put pages here */
    WR_SEGMENT_HUGE = 8,  /* MADV_HUGEPAGE */
    WR_SEGMENT_WIPEONFORK = 16, /* MADV_WIPEONFORK: a forked child reads zeroes here */
    WR_SEGMENT_SHARED = 32,     /* shows shared memory that comes lazily, from `image` in a window on */
    WR_SEGMENT_WINDOW = 64,     /* a window: all of one such piece of memory, where its pager puts pages in */
    WR_SEGMENT_NOHUGE = 128,    /* MADV_NOHUGEPAGE */
};

struct wr_header {
    uint8_t magic[8];         /* "RSTRIMG" and NUL */
    uint32_t version;         /* WR_VERSION */
    uint32_t header_bytes;    /* sizeof(struct wr_header) */
    uint64_t image_id;        /* the key this blob is stored under */
    uint64_t image_bytes;     /* decoded size of the blob */
    uint64_t memory_bytes;    /* what to map for it, page multiple: the blob, then zeroes (stacks, buffers) */
    uint64_t xfeatures;       /* XCR0 bits the xstate uses: the CPU must have them enabled */
    uint32_t xstate_bytes;    /* size of the largest XSAVE area */
    uint32_t fd_base;         /* all restorer fds lie at or above: max(64, largest fd + 1) */
    uint32_t programs_offset; /* struct wr_program[] */
    uint32_t programs_count;
    uint32_t objects_offset; /* struct wr_object[] */
    uint32_t objects_count;
    uint32_t processes_offset; /* struct wr_process[] */
    uint32_t processes_count;
    uint32_t ports_offset; /* struct wr_port[]: listening inet sockets, for --publish */
    uint32_t ports_count;
    uint32_t shared_program;  /* run by the launcher itself before the first clone */
    uint32_t undo_program;    /* run by the launcher when the restore has failed and its tree is dead */
    uint32_t slots_count;     /* highest slot used + 1, at most WR_SLOTS */
    uint32_t manifest_offset; /* UTF-8 JSON, for Python and people; last in the blob */
    uint32_t manifest_bytes;
    uint32_t pids_offset; /* int32_t[]: every PID that the restore will choose, leaders of sessions first */
    uint32_t pids_count;
    uint32_t terminal_offset; /* struct wr_terminal, 0 without one */
    uint64_t monotonic_ns;    /* CLOCK_MONOTONIC at the checkpoint, as the program read it */
    uint64_t boottime_ns;     /* CLOCK_BOOTTIME */
    uint32_t own_time;        /* 1: the program was in a time namespace, and these are not the machine's */
    uint32_t leaders_count;   /* how many of pids[] lead a session; 0 in images older than the field */
};

/* The terminal outside of the tree that it had: what a launcher in the foreground makes of its own. */
struct wr_terminal {
    uint8_t modes[44];   /* struct termios2 */
    uint16_t size[4];    /* struct winsize */
    uint32_t foreground; /* one of the group in the foreground, or who leads the session */
    uint32_t
        master_slot; /* the tree leads a session: the slot of the master of the pair that it gets, which the launcher
                             holds; WR_NO_SLOT: it is a job, and the terminal is the launcher's own */
};

/* A port in the image's data which --publish may replace before any program runs. */
struct wr_port {
    uint32_t value_offset; /* of a big-endian uint16_t (sin_port, sin6_port) */
    uint32_t protocol;     /* IPPROTO_TCP or IPPROTO_UDP */
};

/* ---------------------------------------------------------------- page index */

/* One chunk of one address space. In the store (`maps`) `where` is the sequence number of the chunk's pack, in which its
 * frame begins at byte `offset`; the launcher replaces it by the frame's offset in data.mdb. Sorted by addr, no two records
 * with one addr. */
struct wr_record {
    uint64_t addr; /* of the 64 KiB window, aligned to WR_CHUNK_BYTES */
    uint64_t where;
    uint32_t check;       /* the last four bytes of the chunk's frame: binds content to index */
    uint32_t frame_bytes; /* length of the frame */
    uint16_t mask;  /* bit i: page i of the window is stored; the chunk decodes to these, packed in order */
    uint16_t flags; /* enum wr_record_flags */
    uint32_t offset;
};

enum wr_record_flags {
    WR_RECORD_EAGER = 1, /* never-lazy: in place before resume */
    WR_RECORD_WRITE = 2, /* lies in a WR_SEGMENT_WRITE segment */
    WR_RECORD_SHARED =
        4, /* lies in a window, of any process of the tree: only in the page index of the first process */
};

/* ---------------------------------------------------------------- working set */

/* The first frame of a value in `hot` decodes to this, then wr_hot_block[blocks_count], then uint32_t[chunks_count]:
 * indices of records in the order of use. The frames of the blocks follow the first one. */
struct wr_hot {
    uint8_t magic[8]; /* "RSTRHOT" and NUL */
    uint64_t image_id;
    uint32_t map_check; /* wr_process.map_check: the page index that the chunks are of */
    uint32_t blocks_count;
    uint32_t chunks_count;
    uint32_t
        eager_blocks; /* so many, from the first on, come before resume: all that must be there by then, and more */
};

/* The packed pages of some chunks, one behind the other, as one frame. */
struct wr_hot_block {
    uint64_t where;       /* from the end of the first frame; the launcher makes it an offset in data.mdb */
    uint32_t frame_bytes; /* length of the frame */
    uint32_t check;       /* its last four bytes */
    uint32_t first;       /* chunks [first, first + count) */
    uint32_t count;
};

/* One chunk that a fault needed. */
struct wr_use {
    uint32_t record; /* index of its record */
    uint32_t us;     /* microseconds after resume */
};

/* A file in the store's folder `recordings`: what one restore needed, in order. wr_use[chunks_count] follow. */
struct wr_recording {
    uint8_t magic[8]; /* "RSTRREC" and NUL */
    uint64_t image_id;
    uint32_t map_check;
    uint32_t chunks_count;
};

/* ---------------------------------------------------------------- shared at run time */

enum wr_fill {
    WR_FILL_BACKGROUND = 0, /* faults first, the rest when idle */
    WR_FILL_NONE = 1,       /* on demand only */
    WR_FILL_BEFORE = 2,     /* everything before resume */
};

/* The first failed op of any task of the tree. */
struct wr_failure {
    uint32_t claimed; /* compare-and-swap 0 -> 1 by whoever fails first, 2 when the rest is written */
    uint32_t program;
    uint32_t op;
    int32_t error; /* errno, positive; 0: the result was not the one expected */
    int64_t result;
};

/* What the pager did, in pages unless the name says otherwise. */
struct wr_counters {
    uint64_t faults;        /* userfault messages handled */
    uint64_t fault_pages;   /* installed because of a fault */
    uint64_t fill_pages;    /* installed by the background fill */
    uint64_t eager_pages;   /* installed before resume */
    uint64_t moved_pages;   /* installed by UFFDIO_MOVE */
    uint64_t copied_pages;  /* installed by UFFDIO_COPY */
    uint64_t zero_pages;    /* unknown pages answered with UFFDIO_ZEROPAGE */
    uint64_t written_pages; /* installed by memcpy (WR_SEGMENT_WRITE) */
    uint64_t poisoned_pages;
    uint64_t dropped_pages; /* forgotten: unmapped, discarded or populated by someone else */
    uint64_t decoded_chunks;
    uint64_t read_bytes;  /* compressed bytes read from data.mdb */
    uint64_t events;      /* fork, remap, remove, unmap */
    uint64_t retries;     /* EAGAIN of an install */
    uint64_t total_pages; /* in the index */
    uint64_t hot_pages;   /* installed from the working set */
    uint64_t hot_blocks;  /* of the working set decoded */
    uint64_t huge_pages;  /* installed as parts of huge pages that were moved whole */
    uint64_t huge_dear;   /* 1: new huge pages cost more than copying did, and were given up */
};

enum wr_calls_limits {
    WR_CALLS = 64,
};

/* A thread of the tree was in madvise(2), or in process_madvise(2) with any range, when the launcher looked. */
struct wr_call {
    uint64_t start;
    uint64_t end;
    uint64_t advice;
    int64_t pid; /* of its process, as the launcher sees it */
};

/* The answer to WR_MESSAGE_CALLS. */
struct wr_calls {
    uint32_t ready; /* futex: 1 = the rest is written; set to 0 by the pager before it asks */
    uint32_t count; /* WR_CALLS + 1 when there were more */
    struct wr_call list[64];
};

enum wr_wipes_limits {
    WR_WIPES = 64,
};

/* The answer to WR_MESSAGE_WIPES: where the process has MADV_WIPEONFORK from an address on, ascending. */
struct wr_wipes {
    uint32_t ready; /* futex: 1 = the rest is written; set to 0 by the pager before it asks */
    uint32_t count; /* WR_WIPES + 1 when the process could not be looked at */
    struct {
        uint64_t start;
        uint64_t end;
    } list[64];
    uint64_t next; /* where there is more to be asked for; 0: that was all */
};

/* Shared memory of launcher, loader and pager: one page-aligned block, MAP_SHARED in the region. */
struct wr_ctl {
    uint32_t go;          /* futex: 1 = run */
    uint32_t ready;       /* futex: tasks of the tree that wait for go */
    uint32_t eager_done;  /* futex: 1 = all eager pages in place */
    uint32_t left;        /* tasks that have executed their last op */
    uint32_t index_ready; /* futex: 1 = `where` of all records is resolved; wr_hot is whole from the start */
    uint32_t fill;        /* enum wr_fill, set by the launcher */
    uint32_t loaded;      /* 1 = the pager has nothing left to bring; for `restorer stats` */
    uint32_t ahead;       /* futex: thread id of the pager's decoding thread, 0 once it has gone */
    struct wr_failure failure;
    struct wr_counters counters;
    uint32_t
        suspended;  /* futex: 1 = the launcher holds off the seccomp filters of all tasks of the process */
    uint32_t storm; /* futex: thread id of the pager's second installing thread, 0 once it has gone */
    struct wr_calls calls;
    struct wr_wipes wipes;
};

enum wr_tree_limits {
    WR_STAGES = 8,
};

/* Shared by all processes of the tree, MAP_SHARED in each region. */
struct wr_tree {
    uint32_t
        stages[8]; /* futexes: how many processes have come to each of the places where they wait for all */
};

/* Shared memory that comes lazily, as all pagers of the tree see it: MAP_SHARED in each region, where the image has any.
 * uint16_t need[n] and uint8_t taken[n] follow, one of each for a record of the first process. */
struct wr_shared {
    uint32_t lock;        /* futex: 0 free, 1 held, 2 held and waited for */
    uint32_t index_ready; /* futex: 1 = `where` of the first process's records is resolved */
};

enum wr_trace_limits {
    WR_TRACE_VERSION = 2,
    WR_TRACE_OFFSET = 4096, /* from struct wr_ctl on */
    WR_TRACE_FAULTS = 1024,
    WR_TRACE_NAME_BYTES = 208,
    WR_NO_RECORD = 0xffffffff,
};

/* How a fault was answered. */
enum wr_path {
    WR_PATH_NOTHING = 0, /* the page had come, or gone, in between */
    WR_PATH_MOVE = 1,
    WR_PATH_COPY = 2,
    WR_PATH_ZERO = 3,
    WR_PATH_POISON = 4,
    WR_PATH_HOT = 5, /* out of a block of the working set that was decoded already */
};

/* Phases of a fault, in cycles of the time stamp counter. */
enum wr_phase {
    WR_PHASE_QUEUE = 0,  /* from the read of the message to its turn */
    WR_PHASE_LOOKUP = 1, /* to the record */
    WR_PHASE_READ = 2,   /* of the frame */
    WR_PHASE_DECODE = 3,
    WR_PHASE_INSTALL = 4,
    WR_PHASES = 5,
};

struct wr_fault {
    uint64_t tsc; /* when its message was read */
    uint64_t addr;
    uint32_t tid;    /* in the pager's PID namespace; 0 where the kernel does not tell */
    uint32_t record; /* index of the chunk's record, or WR_NO_RECORD */
    uint32_t path;   /* enum wr_path */
    uint32_t phases[5];
    uint32_t pad[2];
};

/* The first fault that needed a chunk. */
struct wr_used {
    uint64_t tsc;
    uint32_t record;
    uint32_t pad;
};

/* WR_TRACE_OFFSET behind struct wr_ctl, in the same shared memory. Readers get it from the launcher's memfd. */
struct wr_trace {
    uint8_t magic[8]; /* "RSTRTRC" and NUL */
    uint32_t version; /* WR_TRACE_VERSION */
    int32_t pid;      /* of the restored process, as the launcher sees it; 0 before it runs */
    uint64_t image_id;
    uint64_t records_count;
    uint64_t tsc[2]; /* two moments by the time stamp counter, and by CLOCK_MONOTONIC in nanoseconds */
    uint64_t ns[2];
    uint64_t faults_count; /* ever; the last one is ring[(faults_count - 1) % WR_TRACE_FAULTS] */
    uint64_t used_count;   /* of the wr_used[records_count] that follow, in order */
    uint8_t name[208];     /* of the image */
    struct wr_fault ring[1024];
};

/* Where things lie in the region; absolute addresses, written by the launcher before the first clone. */
struct wr_runtime {
    uint64_t region;
    uint64_t region_end;
    uint64_t image;   /* struct wr_header and what follows */
    uint64_t slots;   /* uint64_t[WR_SLOTS] */
    uint64_t ctl;     /* struct wr_ctl */
    uint64_t records; /* struct wr_record[records_count], MAP_SHARED with the launcher */
    uint64_t records_count;
    uint64_t pool; /* private zeroed memory for the pager's masks, views and spaces */
    uint64_t pool_bytes;
    uint64_t staging;       /* a VMA of its own: private anonymous READ|WRITE between two PROT_NONE pages */
    uint64_t staging_bytes; /* multiple of WR_CHUNK_BYTES */
    uint64_t batches;       /* another such VMA, aligned to WR_HUGE_BYTES, WR_BATCHES times that large */
    uint64_t decoder;       /* static zstd decompression context */
    uint64_t decoder_bytes;
    uint64_t input; /* buffer for compressed bytes */
    uint64_t input_bytes;
    uint64_t trace;      /* struct wr_trace */
    uint64_t hot;        /* struct wr_hot and what follows; 0 without a working set */
    uint64_t hot_buffer; /* WR_HOT_BLOCK_BYTES */
    uint64_t hot_input;  /* for a block's frame */
    uint64_t hot_input_bytes;
    uint64_t start;    /* loader_start in this region */
    uint64_t tree;     /* struct wr_tree */
    uint64_t runtimes; /* uint64_t[processes_count]: struct wr_runtime of each process, for WR_OP_FORK */
    uint64_t shared;   /* struct wr_shared; 0 where no shared memory comes lazily */
    uint64_t shared_records; /* struct wr_record[shared_count] of the first process, MAP_SHARED */
    uint64_t shared_count;
    uint32_t file_checks; /* 0 under --force-files */
    uint32_t pad;
};

/* fds of the pager once its program has run, so that neither needs slots: */
enum wr_pager_fd {
    WR_PAGER_UFFD = 0,
    WR_PAGER_DATA = 1,
    WR_PAGER_CHANNEL = 2,
    WR_PAGER_PIDFD = 3,
    WR_PAGER_SHARED = 4, /* the userfaultfd of shared memory, where the process has any */
    WR_PAGER_WINDOW = 5, /* the one of its windows */
    WR_PAGER_KEEPER =
        6,            /* a pidfd of the keeper, which shares these fds; images of before 2026-11 have none */
    WR_PAGER_FDS = 7, /* everything from here on is closed; fork events bring more */
};

enum wr_message_kind {
    WR_MESSAGE_UFFD = 1,      /* with the userfaultfd as SCM_RIGHTS */
    WR_MESSAGE_READY = 2,     /* the tree waits for go */
    WR_MESSAGE_LOADED = 3,    /* nothing is missing any more; the pager has closed its userfaultfd */
    WR_MESSAGE_POISONED = 4,  /* a = address of the window, b = `where` of the chunk, c = pages */
    WR_MESSAGE_EAGER_BAD = 5, /* as POISONED, before resume: the restore has failed */
    WR_MESSAGE_LOST = 6,      /* the pager cannot go on: a = errno, b = what it did (enum wr_lost) */
    WR_MESSAGE_CHILD =
        7, /* with a forked child's userfaultfd as SCM_RIGHTS, for the launcher to hold; a = its number */
    WR_MESSAGE_CHILD_GONE = 8, /* the child numbered a is loaded or has ended: close what was held */
    WR_MESSAGE_HOT_BAD =
        9,                /* block a of the working set is not what its index says; it is not used any more */
    WR_MESSAGE_BORN = 10, /* with a pidfd of the process as SCM_RIGHTS; not sent for the root */
    WR_MESSAGE_PAGER = 11,  /* with a pidfd of the pager as SCM_RIGHTS */
    WR_MESSAGE_FAILED = 12, /* ctl->failure has been written */
    WR_MESSAGE_LEFT = 13,   /* the pager goes: nobody is left who could miss a page */
    WR_MESSAGE_ALONE = 14,  /* has every thread left our mm? The launcher answers with the same, if so */
    WR_MESSAGE_SUSPEND =
        15, /* all threads are there, and will have seccomp filters: suspend them until each has left */
    WR_MESSAGE_SHARED_BAD = 16, /* as POISONED, of shared memory: the pager cannot go on */
    WR_MESSAGE_CALLS = 17,      /* who is in madvise(2) now? The answer is written to ctl->calls */
    WR_MESSAGE_WIPES =
        18, /* where from address a on is MADV_WIPEONFORK now? The answer is written to ctl->wipes */
};

enum wr_lost {
    WR_LOST_UFFD_READ = 1,
    WR_LOST_INSTALL = 2,
    WR_LOST_POOL = 3,
    WR_LOST_DATA_READ = 4,
    WR_LOST_ADVICE = 5, /* shared memory was discarded, and how cannot be told */
    WR_LOST_VIEW = 6,   /* a fault where nothing is known to be */
    WR_LOST_ORDER = 7,  /* threads moved memory, in which order cannot be told */
    WR_LOST_WIPES = 8,  /* which memory a forked child finds wiped cannot be told */
};

/* One SOCK_SEQPACKET message. */
struct wr_message {
    uint32_t kind; /* enum wr_message_kind */
    uint32_t pad;
    uint64_t a;
    uint64_t b;
    uint64_t c;
};

#endif
