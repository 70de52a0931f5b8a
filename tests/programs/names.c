/* SPDX-License-Identifier: Apache-2.0
 * The names of threads, odd bytes included. */
#include "test.h"
#include <pthread.h>
#include <sys/prctl.h>

static const char *const names[] = {"main) S 1 (", "a\nb", "", "fifteen letters", "\xff\xfe"};
#define NAMES (sizeof names / sizeof *names)

static volatile int go, named;

static void check(int number)
{
    char name[16] = "?";
    EXPECT(prctl(PR_GET_NAME, name) == 0 && strcmp(name, names[number]) == 0);
}

static void *thread(void *argument)
{
    int number = (int)(intptr_t)argument;
    MUST(prctl(PR_SET_NAME, names[number]) == 0);
    __sync_fetch_and_add(&named, 1);
    while (!go)
        usleep(1000);
    check(number);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[NAMES];
    test_init(argc, argv);
    MUST(prctl(PR_SET_NAME, names[0]) == 0);
    for (intptr_t i = 1; i < (intptr_t)NAMES; i++)
        MUST(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
    while (named < (int)NAMES - 1)
        usleep(1000);
    test_wait();
    check(0);
    go = 1;
    for (size_t i = 1; i < NAMES; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    return test_done();
}
