/* SPDX-License-Identifier: Apache-2.0
 * Alternate signal stacks: one set, one whose thread is running on it in a handler, one disarmed while used. */
#include "test.h"
#include <pthread.h>
#include <signal.h>

#define STACK_BYTES 65536

static volatile int go, inside;

static void set_stack(char *stack, int flags)
{
    stack_t setting = {.ss_sp = stack, .ss_size = STACK_BYTES, .ss_flags = flags};
    MUST(sigaltstack(&setting, NULL) == 0);
}

static void expect_stack(const char *stack, int flags, const char *who)
{
    stack_t now;
    MUST(sigaltstack(NULL, &now) == 0);
    if (now.ss_sp != stack || now.ss_size != STACK_BYTES || now.ss_flags != flags)
        test_differs("%s: stack %p of %zu bytes, flags %#x", who, now.ss_sp, now.ss_size, now.ss_flags);
}

static void on_signal(int signo)
{
    char here;
    stack_t stack;
    MUST(sigaltstack(NULL, &stack) == 0);
    char *start = stack.ss_sp;
    if (signo == SIGUSR1) {
        inside = 1;
        while (!go)
            usleep(1000);
        expect_stack(start, SS_ONSTACK, "in the handler");
    }
    EXPECT(&here >= start && &here < start + STACK_BYTES);
    inside = 2;
}

static void *thread(void *stack)
{
    set_stack(stack, 0);
    MUST(raise(SIGUSR1) == 0);
    EXPECT_EQ(inside, 2);
    expect_stack(stack, 0, "after the handler");
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    char *stack = malloc(STACK_BYTES), *other = malloc(STACK_BYTES);
    pthread_t handler;
    test_init(argc, argv);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0);
    set_stack(stack, 0);
    MUST(pthread_create(&handler, NULL, thread, other) == 0);
    while (!inside)
        usleep(1000);
    test_wait();
    expect_stack(stack, 0, "main");
    go = 1;
    MUST(pthread_join(handler, NULL) == 0);
    inside = 0;
    MUST(raise(SIGUSR2) == 0);
    EXPECT_EQ(inside, 2);
    return test_done();
}
