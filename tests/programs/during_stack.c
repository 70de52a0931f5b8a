/* SPDX-License-Identifier: Apache-2.0
 * Stacks that are missing: deep frames that were there before the checkpoint, the main stack grown below all of them,
 * signals that come while the stack pointer stands on a page which is missing, and on alternate stacks. */
#include "memory.h"
#include <pthread.h>
#include <signal.h>

#define DEEP    (160 * PAGE)
#define THREADS 8

static volatile sig_atomic_t seen;
static __thread int nested;

/* The frame lies below the stack pointer, on pages nobody has touched since the restore. */
static void on_signal(int signal)
{
    volatile char frame[6 * PAGE];
    for (size_t i = 0; i < sizeof frame; i += 512)
        frame[i] = (char)(i / 512);
    if (nested++ == 0)
        raise(signal);
    for (size_t i = 0; i < sizeof frame; i += 512)
        EXPECT(frame[i] == (char)(i / 512));
    nested--;
    seen++;
}

/* Writes all of it where `fill`; later it reads as it was, below what has been used since. */
__attribute__((noinline)) static size_t deep(int fill)
{
    volatile uint64_t frame[DEEP / 8];
    size_t wrong = 0;
    for (size_t i = 0; i < DEEP / 8; i += 64) {
        if (fill)
            frame[i] = memory_mix(i + 1);
        /* What lies just below the caller has been written over by its calls. */
        else if (i < DEEP / 8 * 3 / 4)
            wrong += frame[i] != memory_mix(i + 1);
    }
    return wrong;
}

__attribute__((noinline)) static int grow(int depth)
{
    volatile char frame[2 * PAGE];
    memset((char *)frame, depth, sizeof frame);
    int below = depth ? grow(depth - 1) : 0;
    return below + (frame[PAGE] != (char)depth);
}

static void *thread(void *argument)
{
    stack_t alternate = {.ss_sp = argument, .ss_size = 64 * PAGE};
    MUST(sigaltstack(&alternate, NULL) == 0);
    deep(1);
    test_wait_go();
    EXPECT_EQ(pthread_kill(pthread_self(), SIGUSR1), 0);
    EXPECT_EQ(deep(0), 0);
    EXPECT_EQ(grow(60), 0);
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    pthread_t threads[THREADS];
    test_init(argc, argv);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++) {
        char *stack = memory_map(64, 0);
        memory_fill(stack, 64, i);
        MUST(pthread_create(&threads[i], NULL, thread, stack) == 0);
    }
    deep(1);
    test_wait();
    EXPECT_EQ(deep(0), 0);
    MUST(raise(SIGUSR1) == 0); /* the main thread has no alternate stack */
    EXPECT_EQ(grow(500), 0);
    for (size_t i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    EXPECT_EQ(seen, 2 * (THREADS + 1));
    return test_done();
}
