/* SPDX-License-Identifier: Apache-2.0
 * The leader ends and stays behind as a zombie, while the threads go on for longer than a pager looks away: all that they
 * read later is still brought. Without capabilities, so that the pager, which has none, may look at it. */
#include "memory.h"
#include <linux/capability.h>
#include <pthread.h>

#define PAGES   4096
#define THREADS 4
#define ROUNDS  2

static char *area;
static pthread_barrier_t gate;

static void *reader(void *argument)
{
    size_t first = (size_t)argument * (PAGES / THREADS), share = PAGES / THREADS / ROUNDS;
    test_wait_go();
    for (size_t round = 0; round < ROUNDS; round++) {
        usleep(1600000);
        EXPECT_EQ(memory_wrong_from(area + (first + round * share) * PAGE, first + round * share, share, 1),
                  0);
    }
    if (pthread_barrier_wait(&gate) == PTHREAD_BARRIER_SERIAL_THREAD)
        _exit(test_done());
    pause();
    return NULL;
}

int main(int argc, char **argv)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    pthread_t thread;
    test_init(argc, argv);
    MUST(syscall(SYS_capset, &header, none) == 0);
    area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    MUST(pthread_barrier_init(&gate, NULL, THREADS) == 0);
    for (size_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread, NULL, reader, (void *)i) == 0);
    test_wait();
    pthread_exit(NULL);
}
