/* SPDX-License-Identifier: Apache-2.0 */
/* seccomp_tsync: filters that all threads have in common still are that, and no thread is given no_new_privs. */
#include <pthread.h>
#include "seccomp.h"

static pthread_barrier_t barrier;

static void *other(void *own_privs)
{
    if (own_privs)
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), own_privs != NULL);
    EXPECT_EQ(seccomp_count("Seccomp_filters"), 2);
    EXPECT_EQ(errno_of(SYS_getuid), 41);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    EXPECT_EQ(errno_of(SYS_geteuid), 43);
    return own_privs;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 3) == 0);
    MUST(filter_install(0, SYS_getuid, NO(41)) == 0);
    MUST(pthread_create(&threads[0], NULL, other, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, other, &barrier) == 0);
    pthread_barrier_wait(&barrier);
    MUST(filter_install(SECCOMP_FILTER_FLAG_TSYNC, SYS_getgid, NO(42)) == 0);
    test_wait();
    EXPECT_EQ(errno_of(SYS_getgid), 42);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    EXPECT_EQ(filter_install(SECCOMP_FILTER_FLAG_TSYNC, SYS_geteuid, NO(43)), 0);
    pthread_barrier_wait(&barrier);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    return test_done();
}
