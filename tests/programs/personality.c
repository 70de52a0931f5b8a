/* SPDX-License-Identifier: Apache-2.0 */
/* personality: execution domain flags, of each thread its own. */
#include <pthread.h>
#include <sys/personality.h>
#include "test.h"

static pthread_barrier_t barrier;

static void *other(void *unused)
{
    MUST(personality(ADDR_NO_RANDOMIZE) >= 0);
    pthread_barrier_wait(&barrier);
    test_wait_go();
    EXPECT_EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 2) == 0);
    MUST(pthread_create(&thread, NULL, other, NULL) == 0);
    pthread_barrier_wait(&barrier);
    MUST(personality(ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS) >= 0);
    test_wait();
    EXPECT_EQ(personality(0xffffffff), ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS);
    pthread_join(thread, NULL);
    return test_done();
}
