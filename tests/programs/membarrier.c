/* SPDX-License-Identifier: Apache-2.0 */
/* membarrier: barriers that a process has registered for work at once, others are refused. */
#include <linux/membarrier.h>
#include <pthread.h>
#include "test.h"

#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif

static int barrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) < 0 ? -errno : 0;
}

static void *other(void *unused)
{
    test_wait_go();
    EXPECT_EQ(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), 0);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    test_init(argc, argv);
    MUST(barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0);
    MUST(barrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0);
    long registered = syscall(SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0);
    MUST(pthread_create(&thread, NULL, other, NULL) == 0);
    test_wait();
    EXPECT_EQ(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), 0);
    EXPECT_EQ(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE), -EPERM);
    EXPECT_EQ(syscall(SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0), registered);
    pthread_join(thread, NULL);
    return test_done();
}
