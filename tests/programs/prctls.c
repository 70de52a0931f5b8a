/* SPDX-License-Identifier: Apache-2.0 */
/* prctls: settings of the process, of its memory and of two threads. */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include "test.h"

static pthread_barrier_t barrier;

static int get(int option)
{
    int value = -1;
    EXPECT(prctl(option, &value, 0, 0, 0) == 0);
    return value;
}

static void *other(void *unused)
{
    MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
    MUST(prctl(PR_SET_PDEATHSIG, SIGURG, 0, 0, 0) == 0);
    pthread_barrier_wait(&barrier);
    test_wait_go();
    EXPECT_EQ(get(PR_GET_PDEATHSIG), SIGURG);
    EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 2) == 0);
    MUST(pthread_create(&thread, NULL, other, NULL) == 0);
    pthread_barrier_wait(&barrier);
    int speculation = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
    if (speculation > 0 && speculation & PR_SPEC_PRCTL)
        prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
    speculation = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
    MUST(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_PDEATHSIG, SIGWINCH, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    test_wait();
    EXPECT_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    EXPECT_EQ(get(PR_GET_PDEATHSIG), SIGWINCH);
    EXPECT_EQ(get(PR_GET_CHILD_SUBREAPER), 1);
    EXPECT_EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
    EXPECT_EQ(get(PR_GET_TSC), PR_TSC_SIGSEGV);
    EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_DEFAULT);
    EXPECT_EQ(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0), speculation);
    EXPECT_EQ(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0), 0);
    pthread_join(thread, NULL);
    return test_done();
}
