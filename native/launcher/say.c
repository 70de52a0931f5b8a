/* SPDX-License-Identifier: Apache-2.0 */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *about;
static void (*cleanup_fn)(void);

void say_about(const char *name)
{
    about = name;
}

void say_cleanup(void (*cleanup)(void))
{
    cleanup_fn = cleanup;
}

static void one_line(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != '\0'; p++)
        if (*p < 0x20 || *p == 0x7f)
            *p = ' ';
}

static void say(const char *name, const char *format, va_list args)
{
    char text[4096], line[4608];
    vsnprintf(text, sizeof(text), format, args);
    int n = name != NULL ? snprintf(line, sizeof(line) - 1, "restorer: %.200s: %s", name, text)
                         : snprintf(line, sizeof(line) - 1, "restorer: %s", text);
    if (n < 0)
        return;
    if ((size_t)n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    one_line(line);
    line[n] = '\n';
    /* Nobody is left to tell when stderr cannot be written. */
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n + 1);
    (void)ignored;
}

void warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(about, format, args);
    va_end(args);
}

void quit(int code)
{
    void (*cleanup)(void) = cleanup_fn;
    cleanup_fn = NULL;
    if (cleanup != NULL)
        cleanup();
    _exit(code);
}

void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(about, format, args);
    va_end(args);
    quit(EXIT_OWN_FAILURE);
}

void die_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(NULL, format, args);
    va_end(args);
    quit(EXIT_OWN_FAILURE);
}

void json_escape(char *out, size_t bytes, const char *text)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0' && n + 7 < bytes; p++) {
        if (*p == '"' || *p == '\\') {
            out[n++] = '\\';
            out[n++] = (char)*p;
        } else if (*p < 0x20) {
            n += (size_t)snprintf(out + n, 7, "\\u%04x", *p);
        } else {
            out[n++] = (char)*p;
        }
    }
    out[n] = '\0';
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
