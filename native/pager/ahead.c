/* SPDX-License-Identifier: Apache-2.0
 *
 * Working ahead: a second thread of the pager populates staging slots and the memory of batches, and decodes what the
 * fill needs next, so that the pager itself only installs. It runs as SCHED_IDLE: on a CPU that nobody else wants.
 *
 * It owns its decoder, and touches no userfaultfd and no space: the order of events stays the business of one thread.
 */
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"

void ahead_ring(struct pager *p)
{
    struct ahead *ahead = &p->ahead;

    __atomic_add_fetch(&ahead->bell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ahead->asleep, __ATOMIC_SEQ_CST))
        raw3(SYS_futex, &ahead->bell, FUTEX_WAKE, 1);
}

uint64_t ahead_init(struct pager *p, uint8_t *memory)
{
    struct ahead *ahead = &p->ahead;
    uint64_t used = p->rt->decoder_bytes + p->rt->input_bytes;

    ahead->decoder = (struct decoder){
        .memory = memory,
        .input = memory + p->rt->decoder_bytes,
        .packed = memory + used,
    };
    used += WR_CHUNK_BYTES;
    /* The last thing written: the other thread looks at nothing else before it has seen it set. */
    __atomic_store_n(&ahead->usable, decoder_init(p, &ahead->decoder) == 0, __ATOMIC_SEQ_CST);
    ahead_ring(p);
    return used;
}

/* The region may be unmapped as soon as the pager says that all is loaded: by then no other thread may run there.
 * The kernel clears the word when the thread has left its mm (CLONE_CHILD_CLEARTID, mm_release). */
void ahead_stop(struct pager *p)
{
    uint32_t tid;

    __atomic_store_n(&p->ahead.stop, 1, __ATOMIC_SEQ_CST);
    ahead_ring(p);
    while ((tid = __atomic_load_n(&p->ctl->ahead, __ATOMIC_SEQ_CST)) != 0)
        raw4(SYS_futex, &p->ctl->ahead, FUTEX_WAIT, tid, 0);
}

/* Batches first: as long as there is something to decode, populating slots would only take the CPU from it. While the
 * slots are more than half full none is populated between two faults, since what changes page tables on another CPU makes
 * each MOVE flush that one's TLB. Where moving does not pay, one slot is enough: to see when it does. */
static int work(struct pager *p, int *filling)
{
    uint32_t want = cost_move_pays(p, 0) ? p->slots_count : 1;

    if (batch_help(p, &p->ahead.decoder))
        return 1;
    *filling = chunk_slots_ready(p) < (*filling ? want : (want + 1) / 2);
    if (!*filling)
        return 0;
    chunk_populate_one(p);
    return 1;
}

_Noreturn void ahead_main(const struct wr_runtime *rt)
{
    struct pager *p = (struct pager *)rt->pool;
    struct ahead *ahead = &p->ahead;
    int filling = 1;

    for (;;) {
        uint32_t bell = __atomic_load_n(&ahead->bell, __ATOMIC_SEQ_CST);

        if (__atomic_load_n(&ahead->stop, __ATOMIC_SEQ_CST))
            raw1(SYS_exit, 0);
        if (__atomic_load_n(&ahead->usable, __ATOMIC_SEQ_CST) && work(p, &filling))
            continue;
        __atomic_store_n(&ahead->asleep, 1, __ATOMIC_SEQ_CST);
        raw4(SYS_futex, &ahead->bell, FUTEX_WAIT, bell, 0);
        __atomic_store_n(&ahead->asleep, 0, __ATOMIC_SEQ_CST);
    }
}
