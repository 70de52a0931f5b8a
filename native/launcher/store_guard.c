/* SPDX-License-Identifier: Apache-2.0 */
#include "store_guard.h"

#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "say.h"

static const int guarded[] = {SIGBUS, SIGSEGV, SIGFPE, SIGABRT};
enum { GUARDED = sizeof(guarded) / sizeof(guarded[0]) };

/* Worded beforehand: the handler may only make async-signal-safe calls (signal-safety(7)). */
static char message[4352];
static size_t message_bytes;
static volatile int victim = -1;

static void on_fault(int signal)
{
    (void)signal;
    ssize_t ignored = write(STDERR_FILENO, message, message_bytes);
    (void)ignored;
    if (victim >= 0)
        syscall(SYS_pidfd_send_signal, victim, SIGKILL, NULL, 0);
    _exit(EXIT_OWN_FAILURE);
}

static void handle(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    for (int i = 0; i < GUARDED; i++)
        sigaction(guarded[i], &action, NULL);
}

void store_guard_begin(const char *path)
{
    int n =
        snprintf(message, sizeof(message),
                 "restorer: the store %s is damaged: its data.mdb leads outside itself or cannot be read; "
                 "restore it from a copy, or see 'restorer verify'\n",
                 path);
    message_bytes = n < (int)sizeof(message) ? (size_t)n : sizeof(message) - 1;
    handle(on_fault);
}

void store_guard_kills(int pidfd)
{
    victim = pidfd;
}

void store_guard_end(void)
{
    victim = -1;
    handle(SIG_DFL);
}
