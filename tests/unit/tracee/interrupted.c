/* SPDX-License-Identifier: Apache-2.0
 *
 * interrupted SECONDS: one thread for each way to wait in the kernel; none may see EINTR or wake early,
 * whatever a tracer does meanwhile. Prints "ready", then a line per fault; exits with 1 if there was one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define WAIT_NS 20000000L
#define WAIT_MS 20

static const struct timespec wait_time = {0, WAIT_NS};
static double end_time;
static atomic_int faults;
static int epoll_fd, semaphores, queue, pipe_fds[2], sockets[2];
static uint32_t futex_word;

struct text {
    long type;
    char bytes[8];
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static long wait_nanosleep(void)
{
    return syscall(SYS_nanosleep, &wait_time, NULL);
}

static long wait_clock_relative(void)
{
    struct timespec left;

    return clock_nanosleep(CLOCK_MONOTONIC, 0, &wait_time, &left);
}

static long wait_clock_absolute(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_nsec += WAIT_NS;
    if (ts.tv_nsec >= 1000000000L) {
        ts.tv_nsec -= 1000000000L;
        ts.tv_sec++;
    }
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static long wait_poll(void)
{
    return poll(NULL, 0, WAIT_MS);
}

static long wait_ppoll(void)
{
    struct timespec ts = wait_time;
    sigset_t all;

    sigfillset(&all);
    return ppoll(NULL, 0, &ts, &all);
}

static long wait_select(void)
{
    struct timeval tv = {0, WAIT_NS / 1000};

    return select(0, NULL, NULL, NULL, &tv);
}

static long wait_pselect(void)
{
    struct timespec ts = wait_time;
    sigset_t none;

    sigemptyset(&none);
    return pselect(0, NULL, NULL, NULL, &ts, &none);
}

static long wait_epoll(void)
{
    struct epoll_event event;

    return epoll_wait(epoll_fd, &event, 1, WAIT_MS);
}

static long wait_epoll_masked(void)
{
    struct epoll_event event;
    sigset_t all;

    sigfillset(&all);
    return epoll_pwait(epoll_fd, &event, 1, WAIT_MS, &all);
}

static long wait_futex(void)
{
    return syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, &wait_time, NULL, 0);
}

static long wait_signal(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGRTMAX);
    return sigtimedwait(&set, NULL, &wait_time);
}

static long wait_semaphore(void)
{
    struct sembuf down = {0, -1, 0};

    return semtimedop(semaphores, &down, 1, &wait_time);
}

static long wait_socket(void)
{
    char byte;

    return recv(sockets[0], &byte, 1, 0);
}

static long wait_pipe(void)
{
    char byte;

    return read(pipe_fds[0], &byte, 1) - 1;
}

static long wait_queue(void)
{
    struct text text;

    return msgrcv(queue, &text, sizeof(text.bytes), 1, 0) - (long)sizeof(text.bytes);
}

static long feed(void)
{
    struct text text = {1, "text"};

    wait_nanosleep();
    return write(pipe_fds[1], "x", 1) - 1 + msgsnd(queue, &text, sizeof(text.bytes), 0);
}

/* `error`: the errno that the end of the waiting time shows as, 0 for a result of 0. */
static const struct way {
    const char *name;
    long (*wait)(void);
    int error;
    int timed;
} ways[] = {
    {"nanosleep", wait_nanosleep, 0, 1},
    {"clock_nanosleep", wait_clock_relative, 0, 1},
    {"clock_nanosleep until", wait_clock_absolute, 0, 1},
    {"poll", wait_poll, 0, 1},
    {"ppoll", wait_ppoll, 0, 1},
    {"select", wait_select, 0, 1},
    {"pselect", wait_pselect, 0, 1},
    {"epoll_wait", wait_epoll, 0, 1},
    {"epoll_pwait", wait_epoll_masked, 0, 1},
    {"futex", wait_futex, ETIMEDOUT, 1},
    {"sigtimedwait", wait_signal, EAGAIN, 1},
    {"semtimedop", wait_semaphore, EAGAIN, 0},
    {"recv", wait_socket, EAGAIN, 0},
    {"read", wait_pipe, 0, 0},
    {"msgrcv", wait_queue, 0, 0},
    {"write and msgsnd", feed, 0, 0},
};
#define WAYS (sizeof(ways) / sizeof(*ways))

static void *run(void *arg)
{
    const struct way *way = arg;

    while (now() < end_time) {
        double began = now(), took;
        long result;
        int error;

        errno = 0;
        result = way->wait();
        error = errno;
        took = now() - began;
        if (way->error ? result != -1 || error != way->error : result != 0)
            faults += printf("%s: %ld, errno %d\n", way->name, result, error);
        if (way->timed && took < WAIT_NS * 0.99e-9)
            faults += printf("%s: back after %f s\n", way->name, took);
    }
    return NULL;
}

static void *spin(void *arg)
{
    (void)arg;
    for (unsigned long n = 1; now() < end_time; n++) {
        double in = (double)n, out;
        unsigned long copy;

        __asm__ volatile("movq %2, %%xmm7\n\tmov %3, %%rcx\n\tmov $20000, %%rax\n"
                         "1:\tdec %%rax\n\tjnz 1b\n\tmovq %%xmm7, %0\n\tmov %%rcx, %1"
                         : "=r"(out), "=r"(copy)
                         : "r"(in), "r"(n)
                         : "rax", "rcx", "xmm7");
        if (in != out || n != copy)
            faults += printf("registers: %f is %f, %lu is %lu\n", in, out, n, copy);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct timeval limit = {0, WAIT_NS / 1000};
    pthread_t threads[WAYS + 1];
    int silent[2];

    if (argc != 2 || pipe(pipe_fds) || pipe(silent) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        return 2;
    end_time = now() + atof(argv[1]);
    epoll_fd = epoll_create1(0);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, silent[0], &event);
    semaphores = semget(IPC_PRIVATE, 1, 0600);
    queue = msgget(IPC_PRIVATE, 0600);
    setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    for (size_t i = 0; i < WAYS; i++)
        pthread_create(&threads[i], NULL, run, (void *)&ways[i]);
    pthread_create(&threads[WAYS], NULL, spin, NULL);
    puts("ready");
    fflush(stdout);
    /* The two that are fed may wait for ever once the feeder has ended. */
    for (size_t i = 0; i <= WAYS; i++)
        if (i == WAYS || (ways[i].wait != wait_pipe && ways[i].wait != wait_queue))
            pthread_join(threads[i], NULL);
    semctl(semaphores, 0, IPC_RMID);
    puts(faults ? "faults" : "fine");
    fflush(stdout);
    msgctl(queue, IPC_RMID, NULL);
    _exit(faults != 0);
}
