/* SPDX-License-Identifier: Apache-2.0
 * Stops itself: it must stay stopped until SIGCONT comes, and then have slept no less than that. */
#include "test.h"
#include <signal.h>

int main(int argc, char **argv)
{
    test_init(argc, argv);
    test_ready();
    MUST(raise(SIGSTOP) == 0);
    EXPECT(test_may_go()); /* `go` comes before SIGCONT */
    return test_done();
}
