/* SPDX-License-Identifier: Apache-2.0
 *
 * The error of a tracer function: functions return 0 or -1, and on -1 have filled the caller's tr_error.
 * native.py translates it into the exception tree, in one place. Read by cffi: no preprocessor in the body.
 */
#ifndef RESTORER_TRACER_ERROR_H
#define RESTORER_TRACER_ERROR_H
#include <stdint.h>

struct tr_error {
    int32_t code;    /* errno */
    char call[60];   /* what failed, NUL-terminated: "PTRACE_SEIZE", "process_vm_readv" */
    uint64_t object; /* tid or address it failed on */
};

#endif
