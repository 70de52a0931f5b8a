/* SPDX-License-Identifier: Apache-2.0 */
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "modes.h"
#include "say.h"
#include "signals.h"

enum { FLOW_BYTES = 4096, STUCK_MS = 10000 };
#define QUIET_NS UINT64_C(100000000)

struct flow {
    uint8_t data[FLOW_BYTES];
    size_t start, end;
};

static struct {
    int master; /* -1 without one, and once hung up */
    int in;     /* -1 at its end */
    int out;    /* -1 when nobody reads it */
    bool active, begun, raw;
    bool settled; /* the tree may be told of a new size */
    bool idle;    /* nobody has the slave open at the moment */
    bool ended;   /* a pipe that was the input has ended */
    uint64_t at;  /* when something was last read, or its end was typed */
    struct winsize size;
    struct modes own; /* of the launcher's terminal, while it is raw */
    struct flow typed, printed;
} relay = {.master = -1, .in = -1, .out = -1};

/* A pipe or terminal by a description of our own: O_NONBLOCK on one that is shared would be everybody's. */
static int own_output(void)
{
    struct stat st;
    bool ours = isatty(STDOUT_FILENO) || (fstat(STDOUT_FILENO, &st) == 0 && S_ISFIFO(st.st_mode));
    int fd = ours ? open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    return fd >= 0 ? fd : STDOUT_FILENO;
}

void relay_open(int master, const struct wr_terminal *terminal)
{
    relay.master = fcntl(master, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (relay.master < 0)
        die("cannot hold the terminal of the restored session: %s", strerror(errno));
    relay.active = true;
    memcpy(&relay.size, terminal->size, sizeof(relay.size));
}

bool relay_active(void)
{
    return relay.active;
}

/* The kernel sends SIGWINCH to the foreground group where that changes the size (pty_resize). */
static void fit(void)
{
    if (relay.settled && (ioctl(STDIN_FILENO, TIOCGWINSZ, &relay.size) == 0 ||
                          ioctl(STDOUT_FILENO, TIOCGWINSZ, &relay.size) == 0))
        ioctl(relay.master, TIOCSWINSZ, &relay.size);
}

void relay_settle(void)
{
    relay.settled = true;
    fit();
}

static void make_raw(void)
{
    while (modes_in_background(STDIN_FILENO))
        signals_stop_self();
    struct modes now;
    if (!modes_get(STDIN_FILENO, &now))
        return;
    struct modes raw = modes_raw(&now);
    if (!relay.raw || memcmp(&raw, &now, sizeof(raw)) != 0)
        relay.own = now;
    relay.raw = true;
    modes_set(STDIN_FILENO, &raw);
}

static void make_own(void)
{
    if (relay.raw)
        modes_set(STDIN_FILENO, &relay.own);
    relay.raw = false;
}

void relay_begin(void)
{
    if (!relay.active)
        return;
    relay.in = STDIN_FILENO;
    relay.out = own_output();
    relay.begun = true;
    make_raw();
}

static bool has_data(const struct flow *flow)
{
    return flow->start < flow->end;
}

void relay_list(struct pollfd *fds)
{
    bool typed = has_data(&relay.typed), printed = has_data(&relay.printed);
    short events = (short)((typed ? POLLOUT : 0) | (printed || relay.idle ? 0 : POLLIN));
    fds[0] = (struct pollfd){relay.begun && !typed && relay.master >= 0 ? relay.in : -1, POLLIN, 0};
    fds[1] = (struct pollfd){relay.begun && events != 0 ? relay.master : -1, events, 0};
    fds[2] = (struct pollfd){relay.begun && printed ? relay.out : -1, POLLOUT, 0};
}

bool relay_wants_time(void)
{
    return relay.begun && (relay.idle || relay.ended) && relay.master >= 0;
}

static void hang_up(void)
{
    close(relay.master);
    relay.master = -1;
}

/* The end of a terminal is its loss. */
static void end_of_input(void)
{
    relay.in = -1;
    relay.ended = !isatty(STDIN_FILENO);
    if (!relay.ended)
        hang_up();
}

static bool is_typed_ahead(void)
{
    int fd = ioctl(relay.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct pollfd slave = {fd, POLLIN, 0};
    bool any = fd < 0 || poll(&slave, 1, 0) != 0;
    if (fd >= 0)
        close(fd);
    return any;
}

/* That of a pipe is what Ctrl-D means, to whoever reads next: one that was typed while nobody did is lost when a line editor
 * changes the terminal's mode. */
static void type_end_of_file(void)
{
    struct modes modes;
    if (now_ns() - relay.at < QUIET_NS || is_typed_ahead() || !modes_get(relay.master, &modes))
        return;
    relay.at = now_ns();
    relay.typed.data[0] = modes_end_of_file(&modes);
    relay.typed.start = 0;
    relay.typed.end = 1;
}

static void read_typed(void)
{
    if (modes_in_background(relay.in)) {
        make_raw();
        return;
    }
    ssize_t n = read(relay.in, relay.typed.data, FLOW_BYTES);
    if (n > 0) {
        relay.typed.start = 0;
        relay.typed.end = (size_t)n;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        end_of_input();
    }
}

static void read_printed(void)
{
    ssize_t n = read(relay.master, relay.printed.data, FLOW_BYTES);
    relay.idle = n < 0 && errno == EIO;
    if (n > 0) {
        relay.at = now_ns();
        relay.printed.start = 0;
        relay.printed.end = (size_t)n;
    }
}

/* Returns false when nobody is there to take it. */
static bool pass_on(struct flow *flow, int fd)
{
    ssize_t n = write(fd, flow->data + flow->start, flow->end - flow->start);
    if (n > 0)
        flow->start += (size_t)n;
    return n >= 0 || errno == EAGAIN || errno == EINTR;
}

static void print(void)
{
    if (relay.out < 0 || !pass_on(&relay.printed, relay.out)) {
        relay.out = -1;
        relay.printed.start = relay.printed.end;
    }
}

void relay_step(const struct pollfd *fds)
{
    if (!relay.begun || relay.master < 0)
        return;
    relay.idle = false;
    if (has_data(&relay.typed) && !pass_on(&relay.typed, relay.master))
        relay.typed.start = relay.typed.end;
    if (!has_data(&relay.printed))
        read_printed();
    if (has_data(&relay.printed))
        print();
    if (fds[0].revents != 0 && !has_data(&relay.typed) && relay.in >= 0)
        read_typed();
    if (relay.ended && !has_data(&relay.typed))
        type_end_of_file();
}

bool relay_signal(int signal)
{
    if (!relay.begun)
        return false;
    if (signal == SIGTSTP) {
        make_own();
        signals_stop_self();
    }
    if (signal == SIGTSTP || signal == SIGCONT) {
        make_raw();
        fit();
        return true;
    }
    if (signal == SIGWINCH)
        fit();
    return signal == SIGWINCH;
}

/* What is still on its way to the master's queue arrives by being polled for (n_tty_poll). */
static void drain(void)
{
    for (;;) {
        struct pollfd master = {relay.master, POLLIN, 0};
        if (!has_data(&relay.printed) && poll(&master, 1, 0) > 0)
            read_printed();
        if (!has_data(&relay.printed) || relay.out < 0)
            return;
        struct pollfd out = {relay.out, POLLOUT, 0};
        if (poll(&out, 1, STUCK_MS) == 0)
            return;
        print();
    }
}

void relay_end(void)
{
    if (relay.begun && relay.master >= 0)
        drain();
    make_own();
    if (relay.master >= 0)
        hang_up();
    relay.begun = false;
}
