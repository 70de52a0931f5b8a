/* SPDX-License-Identifier: Apache-2.0
 *
 * threads PORT FAILURE: eight threads that check each other without pause. Whoever finds something wrong
 * writes it to the file FAILURE and ends the process with 3. A connection to 127.0.0.1:PORT gets one line,
 * "alive" and how far each thread has come.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "vectors.h"

#define WORKERS          8
#define BALANCE          1000000
#define LEDGER           64
#define QUEUE            32
#define BLOCK_WORDS      (1 << 16)
#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

static const char *failure_path;
static _Atomic uint64_t progress[WORKERS];
static __thread uint64_t tls_words[64];
static __thread uint64_t tls_seed;

static _Noreturn void fail(const char *what, int line)
{
    char text[256];
    int length =
        snprintf(text, sizeof text, "thread %d: line %d: %s\n", (int)syscall(SYS_gettid), line, what);
    int fd = open(failure_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || write(fd, text, length) != length)
        _exit(4);
    _exit(3);
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static void tls_init(uint64_t seed)
{
    tls_seed = seed;
    for (int i = 0; i < 64; i++)
        tls_words[i] = mix(seed * 64 + i);
}

static void tls_check(void)
{
    for (int i = 0; i < 64; i++)
        CHECK(tls_words[i] == mix(tls_seed * 64 + i));
}

static void step(int worker)
{
    tls_check();
    atomic_fetch_add(&progress[worker], 1);
}

static void begin(int worker)
{
    char name[16];
    snprintf(name, sizeof name, "worker %d", worker);
    CHECK(pthread_setname_np(pthread_self(), name) == 0);
    tls_init(worker + 1);
}

/* Workers 0 and 1: money moves between accounts under a plain mutex; the sum never changes. */
static struct {
    pthread_mutex_t lock;
    int64_t account[LEDGER];
} ledger = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *transfer(void *argument)
{
    int worker = (int)(intptr_t)argument;
    begin(worker);
    for (uint64_t round = worker;; round += 2) {
        CHECK(pthread_mutex_lock(&ledger.lock) == 0);
        int64_t sum = 0, amount = mix(round) % 1000;
        ledger.account[mix(round + 7) % LEDGER] -= amount;
        ledger.account[mix(round + 9) % LEDGER] += amount;
        for (int i = 0; i < LEDGER; i++)
            sum += ledger.account[i];
        CHECK(sum == BALANCE);
        CHECK(pthread_mutex_unlock(&ledger.lock) == 0);
        step(worker);
    }
}

/* Worker 2: a thread dies with the robust mutex in its hands, and each time the next owner is told. */
static pthread_mutex_t robust_lock;
static _Atomic uint64_t deaths;

static void *mortal(void *argument)
{
    tls_init(100);
    int error = pthread_mutex_lock(&robust_lock);
    if (error == EOWNERDEAD)
        CHECK(pthread_mutex_consistent(&robust_lock) == 0);
    else
        CHECK(error == 0);
    tls_check();
    return argument;
}

static void *bury(void *argument)
{
    struct timespec pause = {.tv_nsec = 1000000};
    begin(2);
    (void)argument;
    for (uint64_t round = 1;; round++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, mortal, (void *)round) == 0);
        CHECK(pthread_join(thread, &result) == 0);
        CHECK(result == (void *)round);
        CHECK(pthread_mutex_lock(&robust_lock) == EOWNERDEAD);
        CHECK(pthread_mutex_consistent(&robust_lock) == 0);
        CHECK(pthread_mutex_unlock(&robust_lock) == 0);
        atomic_fetch_add(&deaths, 1);
        step(2);
        /* clock_nanosleep gives EINTR for a signal with a handler only; there is none here. */
        CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == 0);
    }
}

/* Workers 3 and 4: a bounded queue with condition variables; what comes out is what went in, in order. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    uint64_t items[QUEUE], put, got;
} queue = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, {0}, 0, 0};

static void *produce(void *argument)
{
    begin(3);
    (void)argument;
    for (uint64_t round = 0;; round++) {
        CHECK(pthread_mutex_lock(&queue.lock) == 0);
        while (queue.put - queue.got == QUEUE)
            CHECK(pthread_cond_wait(&queue.drained, &queue.lock) == 0);
        queue.items[queue.put++ % QUEUE] = mix(round);
        CHECK(pthread_cond_signal(&queue.filled) == 0);
        CHECK(pthread_mutex_unlock(&queue.lock) == 0);
        step(3);
    }
}

static void *consume(void *argument)
{
    begin(4);
    (void)argument;
    for (uint64_t round = 0;; round++) {
        CHECK(pthread_mutex_lock(&queue.lock) == 0);
        while (queue.put == queue.got)
            CHECK(pthread_cond_wait(&queue.filled, &queue.lock) == 0);
        CHECK(queue.items[queue.got++ % QUEUE] == mix(round));
        CHECK(pthread_cond_signal(&queue.drained) == 0);
        CHECK(pthread_mutex_unlock(&queue.lock) == 0);
        step(4);
    }
}

/* Workers 5 and 6: numbers that live in vector registers, mask registers and the x87 stack only. */
static void *vectors(void *argument)
{
    int worker = (int)(intptr_t)argument;
    begin(worker);
    for (uint64_t round = worker;; round += 2) {
        CHECK(vectors_keep(mix(round), 200000) == 0);
        step(worker);
    }
}

/* Worker 7: a block of memory is rewritten from one generation to the next, and read back. */
static void *rewrite(void *argument)
{
    uint64_t *block = malloc(BLOCK_WORDS * sizeof *block);
    begin(7);
    (void)argument;
    CHECK(block != NULL);
    for (uint64_t i = 0; i < BLOCK_WORDS; i++)
        block[i] = mix(i);
    for (uint64_t generation = 0;; generation++) {
        for (uint64_t i = 0; i < BLOCK_WORDS; i++) {
            CHECK(block[i] == mix(i + generation));
            block[i] = mix(i + generation + 1);
        }
        step(7);
    }
}

static void robust_init(void)
{
    pthread_mutexattr_t attributes;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&robust_lock, &attributes) == 0);
}

static int listen_on(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(fd, 16) == 0);
    return fd;
}

static void answer(int listener)
{
    char line[512] = "alive";
    size_t length = strlen(line);
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    for (int i = 0; i < WORKERS; i++)
        length += snprintf(line + length, sizeof line - length, " %llu", (unsigned long long)progress[i]);
    line[length++] = '\n';
    (void)!send(fd, line, length, MSG_NOSIGNAL); /* who hung up does not want it */
    CHECK(close(fd) == 0);
}

int main(int argc, char **argv)
{
    static void *(*const work[WORKERS])(void *) = {transfer, transfer, bury,    produce,
                                                   consume,  vectors,  vectors, rewrite};
    if (argc != 3)
        return 2;
    failure_path = argv[2];
    ledger.account[0] = BALANCE;
    robust_init();
    int listener = listen_on(atoi(argv[1]));
    for (intptr_t i = 0; i < WORKERS; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, work[i], (void *)i) == 0);
    }
    for (;;)
        answer(listener);
}
