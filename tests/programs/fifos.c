/* SPDX-License-Identifier: Apache-2.0 */
/* fifos: named pipes with both ends here, with one end, and with a content. */
#include <poll.h>
#include <sys/stat.h>
#include "test.h"

int main(int argc, char **argv)
{
    char text[64];
    test_init(argc, argv);
    MUST(mkfifo(test_path("both"), 0600) == 0 && mkfifo(test_path("command"), 0600) == 0);
    int own = open(test_path("both"), O_RDWR), reader = open(test_path("both"), O_RDONLY | O_NONBLOCK);
    int command = open(test_path("command"), O_RDONLY | O_NONBLOCK);
    MUST(own >= 0 && reader >= 0 && command >= 0 && write(own, "queued", 6) == 6);
    test_wait();
    EXPECT(read(reader, text, sizeof text) == 6 && memcmp(text, "queued", 6) == 0);
    EXPECT(write(own, "more", 4) == 4 && read(reader, text, sizeof text) == 4);
    EXPECT_EQ(fcntl(own, F_GETFL) & O_ACCMODE, O_RDWR);
    EXPECT_EQ(fcntl(command, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY | O_NONBLOCK);
    struct pollfd quiet = {command, POLLIN, 0};
    EXPECT_EQ(poll(&quiet, 1, 0), 0);
    int writer = open(test_path("command"), O_WRONLY);
    EXPECT(writer >= 0 && write(writer, "stop", 4) == 4 && read(command, text, sizeof text) == 4);
    return test_done();
}
