/* SPDX-License-Identifier: Apache-2.0
 *
 * Working ahead: a thread of the pager populates staging slots and the memory of batches, and decodes what the fill needs
 * next, so that the pager itself only installs. It runs as SCHED_IDLE: on a CPU that nobody else wants.
 *
 * It owns its decoder, and touches no userfaultfd and no space. It could not install: preempted in UFFDIO_COPY it would
 * hold a lock of the program's mm for as long as the program is busy.
 */
#include "pager.h"

/* Batches first: as long as there is something to decode, populating slots would only take the CPU from it. While the
 * slots are more than half full none is populated between two faults, since what changes page tables on another CPU makes
 * each MOVE flush that one's TLB. Where moving does not pay, one slot is enough: to see when it does. */
static int work(struct pager *p)
{
    struct ahead *ahead = &p->ahead;
    uint32_t want = cost_move_pays(p, 0) ? p->slots_count : 1;

    if (batch_help(p, &ahead->worker.decoder))
        return 1;
    ahead->resting = chunk_slots_ready(p) >= (ahead->resting ? (want + 1) / 2 : want);
    if (ahead->resting)
        return 0;
    chunk_populate_one(p);
    return 1;
}

_Noreturn void ahead_main(const struct wr_runtime *rt)
{
    struct pager *p = (struct pager *)rt->pool;

    worker_run(p, &p->ahead.worker, work);
}
