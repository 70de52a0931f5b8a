/* SPDX-License-Identifier: Apache-2.0
 * SS_AUTODISARM: inside the handler the kernel has no alternate stack, and sigreturn puts it back. */
#include "test.h"
#include <signal.h>

#define STACK_BYTES 65536
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static char stack[STACK_BYTES];

static void on_signal(int signo)
{
    char here;
    stack_t now;
    (void)signo;
    test_wait();
    EXPECT(sigaltstack(NULL, &now) == 0 && now.ss_flags == SS_DISABLE);
    EXPECT(&here >= stack && &here < stack + STACK_BYTES);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    stack_t setting = {.ss_sp = stack, .ss_size = STACK_BYTES, .ss_flags = (int)SS_AUTODISARM}, now;
    test_init(argc, argv);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0 && sigaltstack(&setting, NULL) == 0);
    MUST(raise(SIGUSR1) == 0);
    EXPECT(sigaltstack(NULL, &now) == 0);
    EXPECT(now.ss_sp == stack && now.ss_size == STACK_BYTES && now.ss_flags == (int)SS_AUTODISARM);
    return test_done();
}
