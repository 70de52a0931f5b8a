/* SPDX-License-Identifier: Apache-2.0
 * A shell in a terminal whose master its parent holds: controlling terminal, foreground group, /dev/tty, one that has
 * given the terminal up; Ctrl-C and Ctrl-Z meet the group in the foreground, a change of size too, and who loses the
 * master hangs up.
 */
#include "pty.h"

#include "tree.h"
#include <signal.h>

enum { JOB, BACKGROUND, GAVE_UP, JOBS };

struct job {
    int place, slave;
    pid_t session;
};

static volatile sig_atomic_t interrupts, resizes, hangups;
static struct child jobs[JOBS];
static int tty = -1;

static void on_signal(int number)
{
    if (number == SIGINT)
        interrupts++;
    else if (number == SIGWINCH)
        resizes++;
    else
        hangups++;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGINT, &action, NULL) == 0 && sigaction(SIGWINCH, &action, NULL) == 0 &&
         sigaction(SIGHUP, &action, NULL) == 0);
}

static int job(char asked, void *argument)
{
    const struct job *own = argument;
    pid_t group;
    switch (asked) {
    case 'p':
        catch_signals();
        CHECK(setpgid(0, 0) == 0);
        return own->place == GAVE_UP ? ioctl(own->slave, TIOCNOTTY) : 0;
    case 'c':
        CHECK(getpgid(0) == getpid() && getsid(0) == own->session);
        CHECK((open("/dev/tty", O_RDWR | O_CLOEXEC) < 0) == (own->place == GAVE_UP));
        return own->place == GAVE_UP ? 0 : ioctl(own->slave, TIOCGPGRP, &group);
    case 'i':
        CHECK(interrupts == (own->place == JOB) && resizes == (own->place == JOB));
        return 0;
    default:
        return asked;
    }
}

static int shell(char asked, void *argument)
{
    static struct job places[JOBS];
    const int *ends = argument;
    int slave = ends[1];
    pid_t group = 0;
    if (asked == 'p') {
        CHECK(close(ends[0]) == 0);
        catch_signals();
        signal(SIGTTOU, SIG_IGN);
        CHECK(setsid() == getpid() && ioctl(slave, TIOCSCTTY, 0) == 0);
        tty = open("/dev/tty", O_RDWR);
        CHECK(tty >= 0);
        for (int i = 0; i < JOBS; i++) {
            places[i] = (struct job){i, slave, getpid()};
            jobs[i] = tree_fork(job, &places[i]);
            CHECK(tree_ask(&jobs[i], 'p') == 0);
        }
        return ioctl(tty, TIOCSPGRP, &jobs[JOB].pid);
    }
    if (asked == 'h') {
        while (hangups == 0)
            usleep(1000);
        CHECK(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO);
        return 0;
    }
    if (asked == 'e') {
        for (int i = 0; i < JOBS; i++)
            CHECK(tree_end(&jobs[i]) == 0);
        return 0;
    }
    CHECK(getsid(0) == getpid() && ioctl(tty, TIOCGSID, &group) == 0 && group == getpid());
    CHECK(ioctl(tty, TIOCGPGRP, &group) == 0 && group == jobs[JOB].pid);
    CHECK(interrupts == 0 && hangups == 0);
    for (int i = 0; i < JOBS; i++) {
        int line = tree_ask(&jobs[i], asked);
        if (line != 0)
            return line;
    }
    return 0;
}

static char state_of(pid_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    MUST(file != NULL && fscanf(file, "%*d (%*[^)]) %c", &state) == 1 && fclose(file) == 0);
    return state;
}

int main(int argc, char **argv)
{
    struct winsize size = {.ws_row = 5, .ws_col = 7};
    test_init(argc, argv);
    pty_init();
    int master = pty_master(), slave = pty_slave(master, O_RDWR), ends[] = {master, slave};
    struct child leader = tree_fork(shell, ends);
    MUST(tree_ask(&leader, 'p') == 0 && tree_ask(&leader, 'c') == 0);
    pid_t group = pty_value(master, TIOCGPGRP);
    test_wait();
    EXPECT_EQ(pty_value(master, TIOCGPGRP), group);
    EXPECT_EQ(pty_value(master, TIOCGSID), leader.pid);
    EXPECT_EQ(tree_ask(&leader, 'c'), 0);
    EXPECT(ioctl(master, TIOCSWINSZ, &size) == 0);
    pty_write(master, "\003", 1);
    EXPECT(pty_reads(master, "^C", 2));
    EXPECT_EQ(tree_ask(&leader, 'i'), 0);
    pty_write(master, "\032", 1);
    EXPECT(pty_reads(master, "^Z", 2));
    while (state_of(group) != 'T')
        usleep(1000);
    EXPECT(kill(group, SIGCONT) == 0);
    EXPECT_EQ(tree_ask(&leader, 'c'), 0);
    EXPECT(close(slave) == 0 && close(master) == 0);
    EXPECT_EQ(tree_ask(&leader, 'h'), 0);
    EXPECT_EQ(tree_ask(&leader, 'e'), 0);
    EXPECT_EQ(tree_end(&leader), 0);
    return pty_done();
}
