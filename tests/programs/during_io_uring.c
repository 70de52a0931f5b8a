/* SPDX-License-Identifier: Apache-2.0
 * An io_uring of a restored program reads into missing buffers and writes out of them: plain ones, and registered ones,
 * which pins their pages. Where io_uring is not allowed (ENOSYS, EPERM) there is nothing to see. */
#include "memory.h"
#include <linux/io_uring.h>
#include <sys/uio.h>

#define PAGES   1024
#define PART    32
#define ENTRIES 8

struct ring {
    int fd;
    unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

static void *ring_part(int fd, size_t bytes, off_t offset)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    MUST(at != MAP_FAILED);
    return at;
}

static int ring_open(struct ring *ring)
{
    struct io_uring_params p = {0};
    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &p);
    if (ring->fd < 0)
        return 0;
    char *sq = ring_part(ring->fd, p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    char *cq =
        ring_part(ring->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    ring->sqes = ring_part(ring->fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring->sq_tail = (unsigned *)(sq + p.sq_off.tail);
    ring->sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    ring->sq_array = (unsigned *)(sq + p.sq_off.array);
    ring->cq_head = (unsigned *)(cq + p.cq_off.head);
    ring->cq_tail = (unsigned *)(cq + p.cq_off.tail);
    ring->cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    return 1;
}

/* `flags`: IOSQE_ASYNC has a worker thread of the kernel meet the pages. */
static int ring_do(struct ring *ring, int op, int fd, char *addr, int index, unsigned char flags)
{
    unsigned tail = *ring->sq_tail, slot = tail & *ring->sq_mask, head = *ring->cq_head;
    ring->sqes[slot] = (struct io_uring_sqe){.opcode = (unsigned char)op,
                                             .flags = flags,
                                             .fd = fd,
                                             .addr = (uintptr_t)addr,
                                             .len = PART * PAGE,
                                             .buf_index = (unsigned short)index};
    ring->sq_array[slot] = slot;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    MUST(syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
    while (__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) == head)
        usleep(1000);
    int result = ring->cqes[head & *ring->cq_mask].res;
    __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
    return result;
}

static void write_and_read(struct ring *ring, char *area, size_t first, int write, int read,
                           unsigned char flags)
{
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    char *out = area + first * PAGE, *in = out + 2 * PART * PAGE;
    EXPECT_EQ(ring_do(ring, write, fd, out, 0, flags), PART * PAGE);
    EXPECT_EQ(ring_do(ring, read, fd, in, 1, flags), PART * PAGE);
    EXPECT_EQ(memory_wrong_from(in, first, PART, 1), 0);
    EXPECT_EQ(memory_wrong_from(out, first, 2 * PART, 1), 0);
    MUST(close(fd) == 0);
}

int main(int argc, char **argv)
{
    struct ring ring;
    test_init(argc, argv);
    char *area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    if (!ring_open(&ring)) {
        EXPECT(errno == ENOSYS || errno == EPERM);
        return test_done();
    }
    write_and_read(&ring, area, 0, IORING_OP_WRITE, IORING_OP_READ, 0);
    write_and_read(&ring, area, 128, IORING_OP_WRITE, IORING_OP_READ, IOSQE_ASYNC);
    /* Half of each registered buffer is missing, and pinned when it comes. */
    struct iovec fixed[2] = {{area + 256 * PAGE, PART * PAGE}, {area + (256 + 2 * PART) * PAGE, PART * PAGE}};
    EXPECT_EQ(memory_wrong_from(area + 256 * PAGE, 256, PART / 2, 1), 0);
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, fixed, 2) == 0);
    write_and_read(&ring, area, 256, IORING_OP_WRITE_FIXED, IORING_OP_READ_FIXED, 0);
    EXPECT_EQ(memory_wrong_from(area + 512 * PAGE, 512, 512, 1), 0);
    return test_done();
}
