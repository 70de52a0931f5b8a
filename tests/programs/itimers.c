/* SPDX-License-Identifier: Apache-2.0 */
/* itimers: time left, interval, and that it fires afterwards. */
#include <signal.h>
#include <sys/time.h>
#include "test.h"

static volatile sig_atomic_t fired;

static void on_alarm(int number)
{
    (void)number;
    fired++;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    struct itimerval real = {{0, 30000}, {0, 30000}}, profile = {{7, 0}, {5000, 0}}, left;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    MUST(setitimer(ITIMER_REAL, &real, NULL) == 0);
    MUST(setitimer(ITIMER_PROF, &profile, NULL) == 0);
    test_wait();
    EXPECT(getitimer(ITIMER_PROF, &left) == 0);
    EXPECT(left.it_value.tv_sec <= 5000 && left.it_value.tv_sec > 4900);
    EXPECT_EQ(left.it_interval.tv_sec, 7);
    EXPECT(getitimer(ITIMER_VIRTUAL, &left) == 0);
    EXPECT_EQ(left.it_value.tv_sec + left.it_value.tv_usec, 0);
    int before = fired;
    struct timespec pause = {.tv_nsec = 5000000};
    for (int i = 0; i < 400 && fired == before; i++)
        nanosleep(&pause, NULL);
    EXPECT(fired > before);
    EXPECT(getitimer(ITIMER_REAL, &left) == 0);
    EXPECT_EQ(left.it_interval.tv_usec, 30000);
    return test_done();
}
