/* SPDX-License-Identifier: Apache-2.0
 *
 * One fault, from the queue to its answer.
 */
#include <errno.h>
#include <stddef.h>

#include "pager.h"

static void bring_wanted(struct pager *p, uint64_t record)
{
    uint64_t *counter = &p->counters->fault_pages;

    trace_used(p, record);
    if (hot_fault(p, record, counter)) {
        trace_end(p, WR_PATH_HOT);
        return;
    }
    pager_bring(p, record, 1, counter);
    trace_end(p, WR_PATH_NOTHING);
}

static int zero_unknown(struct pager *p, struct space *space, uint64_t addr)
{
    uint64_t before = p->counters->zero_pages;
    int result = install_zero(p, space, addr);

    trace_end(p, p->counters->zero_pages != before ? WR_PATH_ZERO : WR_PATH_NOTHING);
    return result;
}

/* A page that is needed comes with its chunk; any other is one that the image does not have: zeroes. */
static void answer(struct pager *p, struct space *space, const struct fault *fault)
{
    int64_t record;
    int result = 0;

    p->counters->faults++;
    trace_begin(p, fault);
    record = space_wanted(space, fault->addr);
    trace_phase(p, WR_PHASE_LOOKUP, trace_now());
    if (record >= 0) {
        p->urgent = space;
        p->urgent_addr = fault->addr;
        bring_wanted(p, (uint64_t)record);
        p->urgent = NULL;
        /* Its events may not be read for want of spaces: the thread asks again once they are. */
        if (space->uffd >= 0 && space_wanted(space, fault->addr) >= 0)
            install_wake(space, fault->addr, WR_PAGE_BYTES);
    } else {
        result = zero_unknown(p, space, fault->addr);
    }
    if (result == -EAGAIN) {
        events_settle(p, space);
        install_wake(space, fault->addr, WR_PAGE_BYTES);
    } else if (result == -ESRCH && fault->space > 0) {
        events_release(p, space);
    }
}

void fault_one(struct pager *p)
{
    struct fault fault = p->faults[p->faults_first];
    struct space *space = &p->spaces[fault.space];

    p->faults_first = (p->faults_first + 1) % FAULTS_MAX;
    p->faults_count--;
    if (fault.shared) {
        shared_fault(p, &fault);
        return;
    }
    if (!fault.addr || space->uffd < 0)
        return;
    if (!events_settled(p, space)) {
        p->faults[(p->faults_first + p->faults_count++) % FAULTS_MAX] = fault;
        events_settle(p, space);
        return;
    }
    storm_begin(p, &fault);
    answer(p, space, &fault);
    storm_end(p);
}
