/* SPDX-License-Identifier: Apache-2.0
 * Timers of clocks that are seldom used: TAI, boot time, and those that wake the machine, where it has them.
 */
#include "test.h"
#include <signal.h>
#include <sys/timerfd.h>

#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif
enum { CLOCKS = 4, LEFT_S = 5000 };

static const clockid_t clocks[CLOCKS] = {CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM,
                                         CLOCK_TAI};
/* By which they can be read, on machines that nothing wakes. */
static const clockid_t readable[CLOCKS] = {CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI};

int main(int argc, char **argv)
{
    static const struct itimerspec setting = {{7, 0}, {LEFT_S, 0}};
    struct itimerspec left, absolute = {{0, 0}, {0, 0}};
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    int ids[CLOCKS], fds[CLOCKS], ends[CLOCKS];
    test_init(argc, argv);
    for (int i = 0; i < CLOCKS; i++) {
        ids[i] = fds[i] = ends[i] = -1;
        if (syscall(SYS_timer_create, clocks[i], &event, &ids[i]) != 0)
            ids[i] = -1;
        MUST(ids[i] < 0 || syscall(SYS_timer_settime, ids[i], 0, &setting, NULL) == 0);
        fds[i] = timerfd_create(clocks[i], 0);
        if (fds[i] < 0)
            continue;
        MUST(timerfd_settime(fds[i], 0, &setting, NULL) == 0);
        ends[i] = timerfd_create(clocks[i], 0);
        MUST(ends[i] >= 0 && clock_gettime(readable[i], &absolute.it_value) == 0);
        absolute.it_value.tv_sec += LEFT_S;
        MUST(timerfd_settime(ends[i], TFD_TIMER_ABSTIME, &absolute, NULL) == 0);
    }
    MUST(ids[0] >= 0 && fds[0] >= 0);
    test_wait();
    for (int i = 0; i < CLOCKS; i++) {
        if (ids[i] >= 0) {
            EXPECT_EQ(syscall(SYS_timer_gettime, ids[i], &left), 0);
            EXPECT(left.it_value.tv_sec > LEFT_S - 100 && left.it_value.tv_sec <= LEFT_S);
            EXPECT_EQ(left.it_interval.tv_sec, 7);
        }
        if (fds[i] >= 0) {
            EXPECT_EQ(timerfd_gettime(fds[i], &left), 0);
            EXPECT(left.it_value.tv_sec > LEFT_S - 100 && left.it_value.tv_sec <= LEFT_S);
            EXPECT_EQ(timerfd_gettime(ends[i], &left), 0);
            EXPECT(left.it_value.tv_sec > LEFT_S - 100 && left.it_value.tv_sec <= LEFT_S);
            EXPECT_EQ(left.it_interval.tv_sec, 0);
        }
    }
    return test_done();
}
