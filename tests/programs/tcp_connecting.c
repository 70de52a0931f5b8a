/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_connecting: connections under way to a listener whose queue is full (tests/live/test_tcp.py): one waited for in
 * connect, one polled for. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include "test.h"

static struct sockaddr_in target = {.sin_family = AF_INET};

/* Connected may be one side only, as long as the queue is full. */
static void expect_talk(int fd, const char *text)
{
    char answer;
    EXPECT(send(fd, text, 6, MSG_NOSIGNAL) == 6 && recv(fd, &answer, 1, 0) == 1 && answer == '!');
}

static void *wait_for_it(void *argument)
{
    int fd = *(int *)argument;
    EXPECT(connect(fd, (struct sockaddr *)&target, sizeof target) == 0);
    expect_talk(fd, "waited");
    return NULL;
}

static in_port_t port_of(int fd)
{
    struct sockaddr_in own = {0};
    socklen_t length = sizeof own;
    MUST(getsockname(fd, (struct sockaddr *)&own, &length) == 0);
    return own.sin_port;
}

int main(int argc, char **argv)
{
    struct sockaddr_in peer = {0};
    socklen_t length = sizeof peer;
    pthread_t thread;
    int port, error = -1;
    test_init(argc, argv);
    FILE *file = fopen(test_path("port"), "re");
    MUST(file && fscanf(file, "%d", &port) == 1);
    target.sin_port = htons((uint16_t)port);
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int waited = socket(AF_INET, SOCK_STREAM, 0), polled = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    MUST(connect(polled, (struct sockaddr *)&target, sizeof target) < 0 && errno == EINPROGRESS);
    MUST(pthread_create(&thread, NULL, wait_for_it, &waited) == 0);
    in_port_t before = port_of(polled);
    while (!port_of(waited))
        usleep(1000);
    usleep(50000);
    test_wait();
    struct pollfd events = {polled, POLLOUT, 0};
    EXPECT(poll(&events, 1, 20000) == 1);
    length = sizeof error;
    EXPECT(getsockopt(polled, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    EXPECT_EQ(port_of(polled), before);
    length = sizeof peer;
    EXPECT(getpeername(polled, (struct sockaddr *)&peer, &length) == 0 && peer.sin_port == target.sin_port);
    EXPECT(fcntl(polled, F_GETFL) & O_NONBLOCK && !(fcntl(waited, F_GETFL) & O_NONBLOCK));
    MUST(fcntl(polled, F_SETFL, 0) == 0);
    expect_talk(polled, "polled");
    pthread_join(thread, NULL);
    return test_done();
}
