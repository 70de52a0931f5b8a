/* SPDX-License-Identifier: Apache-2.0 */
#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "say.h"

enum { KERNEL_SIGSET_BYTES = 8, SIGNALS = 64 };

static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

/* struct kernel_sigaction of x86-64: the C library refuses its own two signals. */
struct raw_sigaction {
    uint64_t handler, flags, restorer, mask;
};

static sigset_t all_but_faults(void)
{
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigdelset(&set, faults[i]);
    return set;
}

static void set_mask(uint64_t mask)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, KERNEL_SIGSET_BYTES);
}

void signals_unblock_faults(void)
{
    uint64_t mask = UINT64_MAX;
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        mask &= ~(UINT64_C(1) << (faults[i] - 1));
    set_mask(mask);
}

void signals_block_all(void)
{
    set_mask(UINT64_MAX);
}

void signals_init(void)
{
    static const struct raw_sigaction standard;
    for (int signal = 1; signal <= SIGNALS; signal++)
        syscall(SYS_rt_sigaction, signal, &standard, NULL, KERNEL_SIGSET_BYTES);
    signals_unblock_faults();
}

void signals_stop_self(void)
{
    static const struct timespec now;
    sigset_t set;
    kill(getpid(), SIGSTOP);
    sigemptyset(&set);
    sigaddset(&set, SIGCONT);
    sigtimedwait(&set, NULL, &now);
}

int signals_fd(void)
{
    sigset_t set = all_but_faults();
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        die("cannot make a signalfd: %s", strerror(errno));
    return fd;
}
