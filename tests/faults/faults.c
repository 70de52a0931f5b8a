/* SPDX-License-Identifier: Apache-2.0
 *
 * LD_PRELOAD=faults.so: the n-th call of one of the functions below fails, or kills its caller, or sends a signal
 * to the parent. It happens in forked children only: the process that the library was loaded into plans it, by
 * fault_plan(), and learns by fault_seen() how often the children have made the call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum deed { NOTHING, FAIL, KILL_BEFORE, KILL_AFTER, SIGNAL_PARENT };

static struct plan {
    char call[32];
    uint64_t at, seen;
    int deed, value; /* errno to fail with, or the signal */
    pid_t planner;
    pid_t waiting; /* a thread in a call that the kernel never makes again, or 0 */
    enum { NOT_ASKED, CUT_SHORT, SET_AGAIN } state;
    int spared; /* KILL_AFTER was due while it was CUT_SHORT */
} * plan;

__attribute__((constructor)) static void set_up(void)
{
    plan = mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (plan == MAP_FAILED)
        _exit(99);
    plan->planner = getpid();
}

void fault_plan(const char *call, uint64_t at, int deed, int value, pid_t waiting)
{
    strncpy(plan->call, call, sizeof(plan->call) - 1);
    plan->at = at;
    plan->seen = 0;
    plan->deed = deed;
    plan->value = value;
    plan->waiting = waiting;
    plan->state = NOT_ASKED;
    plan->spared = 0;
}

int fault_spared(void)
{
    return plan->spared;
}

uint64_t fault_seen(void)
{
    return plan->seen;
}

/* The number of this call is the planned one. */
static int is_due(const char *call)
{
    if (plan == NULL || getpid() == plan->planner || strcmp(plan->call, call) != 0)
        return 0;
    return __atomic_add_fetch(&plan->seen, 1, __ATOMIC_SEQ_CST) == plan->at;
}

static void end(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether the call is to fail, errno being set. */
static int fails(void)
{
    if (plan->deed == KILL_BEFORE)
        end();
    if (plan->deed == SIGNAL_PARENT)
        kill(getppid(), plan->value);
    errno = plan->value;
    return plan->deed == FAIL;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP(type, name, parameters, ...)                                                                    \
    type name parameters                                                                                     \
    {                                                                                                        \
        static __typeof__(&name) real;                                                                       \
        int due = is_due(#name);                                                                             \
        type result;                                                                                         \
        if (real == NULL)                                                                                    \
            real = REAL(name);                                                                               \
        if (due && fails())                                                                                  \
            return (type)-1;                                                                                 \
        result = real(__VA_ARGS__);                                                                          \
        if (due && plan->deed == KILL_AFTER)                                                                 \
            end();                                                                                           \
        return result;                                                                                       \
    }

/* One argument after the named ones, which the kernel ignores where it is not wanted. */
#define LAST(after, type)                                                                                    \
    va_list arguments;                                                                                       \
    va_start(arguments, after);                                                                              \
    type last = va_arg(arguments, type);                                                                     \
    va_end(arguments)

#define WRAP_LAST(type, name, last_type, after, parameters, ...)                                             \
    type name parameters                                                                                     \
    {                                                                                                        \
        static __typeof__(&name) real;                                                                       \
        int due = is_due(#name);                                                                             \
        type result;                                                                                         \
        LAST(after, last_type);                                                                              \
        if (real == NULL)                                                                                    \
            real = REAL(name);                                                                               \
        if (due && fails())                                                                                  \
            return (type)-1;                                                                                 \
        result = real(__VA_ARGS__, last);                                                                    \
        if (due && plan->deed == KILL_AFTER)                                                                 \
            end();                                                                                           \
        return result;                                                                                       \
    }

WRAP(ssize_t, process_vm_readv,
     (pid_t pid, const struct iovec *to, unsigned long n, const struct iovec *from, unsigned long m,
      unsigned long flags),
     pid, to, n, from, m, flags)
WRAP(ssize_t, process_vm_writev,
     (pid_t pid, const struct iovec *from, unsigned long n, const struct iovec *to, unsigned long m,
      unsigned long flags),
     pid, from, n, to, m, flags)
WRAP(ssize_t, read, (int fd, void *to, size_t n), fd, to, n)
WRAP(ssize_t, pread, (int fd, void *to, size_t n, off_t at), fd, to, n, at)
WRAP(ssize_t, pread64, (int fd, void *to, size_t n, off64_t at), fd, to, n, at)
WRAP(ssize_t, write, (int fd, const void *from, size_t n), fd, from, n)
WRAP(ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), fd, from, n, at)
WRAP(ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), fd, from, n, at)
WRAP(ssize_t, writev, (int fd, const struct iovec *from, int n), fd, from, n)
WRAP(ssize_t, pwritev, (int fd, const struct iovec *from, int n, off_t at), fd, from, n, at)
WRAP(ssize_t, pwritev64, (int fd, const struct iovec *from, int n, off64_t at), fd, from, n, at)
WRAP(int, fsync, (int fd), fd)
WRAP(int, fdatasync, (int fd), fd)
WRAP(int, ftruncate, (int fd, off_t length), fd, length)
WRAP(int, ftruncate64, (int fd, off64_t length), fd, length)
WRAP(pid_t, waitpid, (pid_t pid, int *status, int options), pid, status, options)
WRAP(ssize_t, readlink, (const char *path, char *to, size_t n), path, to, n)
WRAP(ssize_t, readlinkat, (int at, const char *path, char *to, size_t n), at, path, to, n)
WRAP(int, socket, (int domain, int type, int protocol), domain, type, protocol)
WRAP(int, getsockopt, (int fd, int level, int name, void *to, socklen_t *n), fd, level, name, to, n)
WRAP_LAST(int, open, int, flags, (const char *path, int flags, ...), path, flags)
WRAP_LAST(int, open64, int, flags, (const char *path, int flags, ...), path, flags)
WRAP_LAST(int, openat, int, flags, (int at, const char *path, int flags, ...), at, path, flags)
WRAP_LAST(int, openat64, int, flags, (int at, const char *path, int flags, ...), at, path, flags)
WRAP_LAST(int, ioctl, void *, request, (int fd, unsigned long request, ...), fd, request)
WRAP_LAST(int, fcntl, void *, command, (int fd, int command, ...), fd, command)
WRAP_LAST(int, fcntl64, void *, command, (int fd, int command, ...), fd, command)

/* PTRACE_INTERRUPT has ended a wait with EINTR, and that nobody can prevent: from then on until the thread is set to make
 * its call again the death of its tracer is noticed (docs/decisions.md). That moment is spared, and no other. */
static int is_spared(enum __ptrace_request request, pid_t pid)
{
    if (pid == plan->waiting && request == PTRACE_INTERRUPT && plan->state == NOT_ASKED)
        plan->state = CUT_SHORT;
    else if (pid == plan->waiting && request == PTRACE_SETREGSET)
        plan->state = SET_AGAIN;
    return plan->state == CUT_SHORT;
}

long ptrace(enum __ptrace_request request, ...)
{
    static long (*real)(enum __ptrace_request, ...);
    int due = is_due("ptrace"), spared;
    long result;
    va_list arguments;

    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *addr = va_arg(arguments, void *), *data = va_arg(arguments, void *);
    va_end(arguments);
    if (real == NULL)
        real = REAL(ptrace);
    if (due && fails())
        return -1;
    result = real(request, pid, addr, data);
    spared = is_spared(request, pid);
    if (due && plan->deed == KILL_AFTER && !spared)
        end();
    if (due && plan->deed == KILL_AFTER)
        plan->spared = 1;
    return result;
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    int due = is_due("syscall");
    long result, a[6];
    va_list arguments;

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (real == NULL)
        real = REAL(syscall);
    if (due && fails())
        return -1;
    result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (due && plan->deed == KILL_AFTER)
        end();
    return result;
}
