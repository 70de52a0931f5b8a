/* SPDX-License-Identifier: Apache-2.0
 * NUMA policies: of two threads, of a part of a mapping, of shared memory; and none where there was none. On a kernel
 * without NUMA there is nothing to see.
 */
#include "memory.h"
#include <pthread.h>

enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL, OF_ADDRESS = 2, STATIC = 1 << 15, NODES = 1024 };

struct policy {
    int mode;
    unsigned long nodes[NODES / 64];
};

static int none;
static volatile int go;
static const struct policy first = {.nodes = {1}};

static struct policy policy(void *addr)
{
    struct policy found = {-1, {0}};
    if (syscall(SYS_get_mempolicy, &found.mode, found.nodes, NODES, addr, addr ? OF_ADDRESS : 0) != 0)
        MUST(errno == ENOSYS);
    return found;
}

static void expect(void *addr, int mode, unsigned long nodes)
{
    if (none)
        return;
    struct policy found = policy(addr);
    EXPECT_EQ(found.mode, mode);
    EXPECT_EQ(found.nodes[0], nodes);
}

static void set(int mode)
{
    MUST(none || syscall(SYS_set_mempolicy, mode, first.nodes, NODES) == 0);
}

static void bind_range(void *addr, size_t bytes, int mode)
{
    MUST(none || syscall(SYS_mbind, addr, bytes, mode, first.nodes, NODES, 0) == 0);
}

static void *thread(void *ready)
{
    set(INTERLEAVE | STATIC);
    *(volatile int *)ready = 1;
    while (!go)
        usleep(1000);
    expect(NULL, INTERLEAVE | STATIC, 1);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t other;
    volatile int ready = 0;
    test_init(argc, argv);
    none = syscall(SYS_get_mempolicy, NULL, NULL, 0, NULL, 0) != 0;
    char *memory = memory_map(30, 0), *plain = memory_map(4, 0);
    char *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    bind_range(memory + 10 * PAGE, 10 * PAGE, BIND);
    bind_range(shared, 4 * PAGE, INTERLEAVE);
    memory_fill(memory, 30, 1);
    memory_fill(shared, 4, 2);
    MUST(pthread_create(&other, NULL, thread, (void *)&ready) == 0);
    while (!ready)
        usleep(1000);
    set(PREFERRED);
    test_wait();
    expect(NULL, PREFERRED, 1);
    expect(memory, DEFAULT, 0);
    expect(memory + 10 * PAGE, BIND, 1);
    expect(memory + 19 * PAGE, BIND, 1);
    expect(memory + 20 * PAGE, DEFAULT, 0);
    expect(shared, INTERLEAVE, 1);
    expect(plain, DEFAULT, 0);
    EXPECT_EQ(memory_wrong(memory, 30, 1), 0);
    EXPECT_EQ(memory_wrong(shared, 4, 2), 0);
    go = 1;
    EXPECT_EQ(pthread_join(other, NULL), 0);
    return test_done();
}
