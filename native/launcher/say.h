/* SPDX-License-Identifier: Apache-2.0
 *
 * What the launcher says, and how it ends when it cannot go on: one line on stderr, exit code 125.
 */
#ifndef RESTORER_SAY_H
#define RESTORER_SAY_H
#include <stddef.h>
#include <stdint.h>

#define EXIT_OWN_FAILURE 125

/* Put before every later message; the pointer is kept. */
void say_about(const char *name);

/* Runs between the message of die() and the exit; what it does must not call die(). */
void say_cleanup(void (*cleanup)(void));

void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Runs the cleanup and ends the process with this code, without a message. */
void quit(int code) __attribute__((noreturn));

/* A usage error: no image name in front. */
void die_usage(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Puts `text` as the inside of a JSON string into `out`, cut off where `bytes` end. */
void json_escape(char *out, size_t bytes, const char *text);

uint64_t now_ns(void);

#endif
