/* SPDX-License-Identifier: Apache-2.0 */
/* socketpairs: what is under way in both directions, message boundaries, half-closed and orphaned ends. */
#include <sys/socket.h>
#include "test.h"

enum { STREAM, PACKET, DATAGRAM, HALF, ORPHAN, PAIRS };

int main(int argc, char **argv)
{
    static const int types[PAIRS] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM, SOCK_STREAM, SOCK_STREAM};
    int pairs[PAIRS][2];
    char text[64];
    test_init(argc, argv);
    for (int i = 0; i < PAIRS; i++)
        MUST(socketpair(AF_UNIX, types[i] | (i == PACKET ? SOCK_NONBLOCK : 0), 0, pairs[i]) == 0);
    MUST(write(pairs[STREAM][0], "to one", 6) == 6 && write(pairs[STREAM][1], "to zero", 7) == 7);
    MUST(write(pairs[STREAM][0], " more", 5) == 5);
    MUST(write(pairs[PACKET][0], "abc", 3) == 3 && write(pairs[PACKET][0], "de", 2) == 2);
    MUST(write(pairs[DATAGRAM][1], "12345", 5) == 5 && write(pairs[DATAGRAM][1], "678", 3) == 3);
    MUST(write(pairs[HALF][0], "last", 4) == 4 && shutdown(pairs[HALF][0], SHUT_WR) == 0);
    MUST(write(pairs[ORPHAN][1], "left", 4) == 4 && close(pairs[ORPHAN][1]) == 0);
    test_wait();
    EXPECT(read(pairs[STREAM][1], text, sizeof text) == 11 && memcmp(text, "to one more", 11) == 0);
    EXPECT(read(pairs[STREAM][0], text, sizeof text) == 7 && memcmp(text, "to zero", 7) == 0);
    EXPECT(write(pairs[STREAM][0], "x", 1) == 1 && read(pairs[STREAM][1], text, sizeof text) == 1);
    EXPECT(read(pairs[PACKET][1], text, sizeof text) == 3 && read(pairs[PACKET][1], text, sizeof text) == 2);
    EXPECT(read(pairs[PACKET][1], text, sizeof text) < 0 && errno == EAGAIN);
    EXPECT(read(pairs[DATAGRAM][0], text, sizeof text) == 5 &&
           read(pairs[DATAGRAM][0], text, sizeof text) == 3);
    EXPECT(read(pairs[HALF][1], text, sizeof text) == 4 && read(pairs[HALF][1], text, sizeof text) == 0);
    EXPECT(write(pairs[HALF][1], "y", 1) == 1 && read(pairs[HALF][0], text, sizeof text) == 1);
    EXPECT(send(pairs[HALF][0], "z", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    EXPECT(read(pairs[ORPHAN][0], text, sizeof text) == 4 && read(pairs[ORPHAN][0], text, sizeof text) == 0);
    EXPECT(send(pairs[ORPHAN][0], "z", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    return test_done();
}
