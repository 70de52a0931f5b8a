/* SPDX-License-Identifier: Apache-2.0
 *
 * The resident blob: loader, pager and zstd's decoder, linked at address 0 without libc, copied by the
 * launcher to the start of the region. It begins with this table; offsets count from its start.
 */
#ifndef RESTORER_RESIDENT_H
#define RESTORER_RESIDENT_H
#include <stdint.h>
#include "wire.h"

#define RESIDENT_MAGIC 0x544e454449534552ULL /* "RESIDENT" */

struct resident {
    uint64_t magic;
    uint64_t text_bytes;   /* page multiple, mapped READ|EXEC once relocated */
    uint64_t file_bytes;   /* bytes of the blob */
    uint64_t memory_bytes; /* page multiple, with .bss; [text_bytes, memory_bytes) stays READ|WRITE */
    uint64_t rela_offset;  /* Elf64_Rela[], all R_X86_64_RELATIVE: *(base + r_offset) = base + r_addend */
    uint64_t rela_count;
    uint64_t run;           /* int run(struct wr_runtime *, uint32_t program): run_fn */
    uint64_t start;         /* void start(struct wr_runtime *, uint32_t program): start_fn, never returns */
    uint64_t decoder_bytes; /* what wr_runtime.decoder_bytes must at least be */
};

/* Runs a program to its end in the caller's process (the launcher's shared program).
 * 0, or -1 with ctl->failure written. */
typedef int (*run_fn)(const struct wr_runtime *, uint32_t program);

/* Runs a task's program, on a stack of its own; ends in ENTER, PAGER, EXIT, or, after writing
 * ctl->failure, in exit_group(125). Called with all signals blocked. */
typedef void (*start_fn)(const struct wr_runtime *, uint32_t program);

#endif
