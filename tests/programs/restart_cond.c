/* SPDX-License-Identifier: Apache-2.0
 * A condition variable is waited for. */
#include "blocked.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int value;

static void block(void)
{
    EXPECT_EQ(pthread_mutex_lock(&lock), 0);
    while (!value)
        EXPECT_EQ(pthread_cond_wait(&changed, &lock), 0);
    EXPECT_EQ(pthread_mutex_unlock(&lock), 0);
}

static void wake(void)
{
    EXPECT_EQ(pthread_mutex_lock(&lock), 0);
    value = 1;
    EXPECT_EQ(pthread_cond_signal(&changed), 0);
    EXPECT_EQ(pthread_mutex_unlock(&lock), 0);
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    return blocked_main(&(struct blocked){SYS_futex, block, wake});
}
