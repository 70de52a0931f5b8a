/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases of files, for reading and for writing, one of a description that a child has too: who opens the file waits
 * until the holder, told by a signal of its choice, gives the lease up.
 */
#include "tree.h"
#include <sys/file.h>

static int writing, reading, signals[2], from;

static void on_break(int number, siginfo_t *info, void *context)
{
    (void)context;
    from = info->si_fd;
    signals[number == SIGIO]++;
}

static int serve(char asked, void *argument)
{
    (void)argument;
    switch (asked) {
    case 'l':
        CHECK(fcntl(reading, F_GETLEASE) == F_RDLCK && fcntl(writing, F_GETLEASE) == F_WRLCK);
        return 0;
    case 'w':
        CHECK(open(test_path("written"), O_RDONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
        return 0;
    default:
        CHECK(open(test_path("read"), O_RDONLY | O_NONBLOCK) >= 0);
        CHECK(open(test_path("read"), O_WRONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
        return 0;
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = on_break, .sa_flags = SA_SIGINFO | SA_RESTART};
    test_init(argc, argv);
    MUST(sigaction(SIGIO, &action, NULL) == 0 && sigaction(SIGRTMIN, &action, NULL) == 0);
    writing = open(test_path("written"), O_RDWR | O_CREAT, 0600);
    int made = open(test_path("read"), O_RDWR | O_CREAT, 0600);
    MUST(writing >= 0 && made >= 0 && close(made) == 0 && (reading = open(test_path("read"), O_RDONLY)) >= 0);
    MUST(fcntl(writing, F_SETLEASE, F_WRLCK) == 0 && fcntl(reading, F_SETLEASE, F_RDLCK) == 0);
    MUST(fcntl(writing, F_SETSIG, SIGRTMIN) == 0);
    struct child child = tree_fork(serve, NULL);
    test_wait();
    EXPECT(fcntl(writing, F_GETLEASE) == F_WRLCK && fcntl(reading, F_GETLEASE) == F_RDLCK);
    EXPECT_EQ(tree_ask(&child, 'l'), 0);
    EXPECT(signals[0] == 0 && signals[1] == 0);
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT(signals[0] == 1 && signals[1] == 0 && from == writing);
    EXPECT_EQ(fcntl(writing, F_SETLEASE, F_UNLCK), 0);
    EXPECT_EQ(tree_ask(&child, 'r'), 0);
    EXPECT(signals[0] == 1 && signals[1] == 1);
    EXPECT_EQ(fcntl(reading, F_SETLEASE, F_UNLCK), 0);
    EXPECT_EQ(tree_end(&child), 0);
    return test_done();
}
