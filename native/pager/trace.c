/* SPDX-License-Identifier: Apache-2.0
 *
 * What happened, for who wants to look: a ring of the last faults, and the chunks that faults needed in the order of
 * their first use. Both lie in memory shared with the launcher; writing them costs a few stores and reads of the time
 * stamp counter, which need no system call.
 */
#include "pager.h"

uint64_t trace_now(void)
{
    return __builtin_ia32_rdtsc();
}

void trace_begin(struct pager *p, const struct fault *fault)
{
    uint64_t now = trace_now(), queued = now - fault->tsc;

    p->traced = (struct wr_fault){
        .tsc = fault->tsc,
        .addr = fault->addr,
        .tid = fault->tid,
        .record = WR_NO_RECORD,
        .phases = {[WR_PHASE_QUEUE] = queued > UINT32_MAX ? UINT32_MAX : (uint32_t)queued},
    };
    p->traced_at = now;
    p->traced_moved = p->counters->moved_pages;
    p->traced_copied = p->counters->copied_pages;
    p->traced_poisoned = p->counters->poisoned_pages;
}

void trace_phase(struct pager *p, uint32_t phase, uint64_t now)
{
    uint64_t sum = p->traced.phases[phase] + now - p->traced_at;

    p->traced.phases[phase] = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
    p->traced_at = now;
}

void trace_used(struct pager *p, uint64_t record)
{
    struct wr_used *used = (struct wr_used *)(p->trace + 1);

    p->traced.record = (uint32_t)record;
    /* The program can write here: the count is ours, the shared one is for readers. */
    if (p->used_count == p->records_count)
        return;
    used[p->used_count++] = (struct wr_used){.tsc = p->traced.tsc, .record = (uint32_t)record};
    __atomic_store_n(&p->trace->used_count, p->used_count, __ATOMIC_RELEASE);
}

static uint32_t path_of(const struct pager *p)
{
    if (p->counters->poisoned_pages != p->traced_poisoned)
        return WR_PATH_POISON;
    if (p->counters->moved_pages != p->traced_moved)
        return WR_PATH_MOVE;
    return p->counters->copied_pages != p->traced_copied ? WR_PATH_COPY : WR_PATH_NOTHING;
}

void trace_end(struct pager *p, uint32_t path)
{
    trace_phase(p, WR_PHASE_INSTALL, trace_now());
    p->traced.path = path == WR_PATH_NOTHING ? path_of(p) : path;
    p->trace->ring[p->traced_count++ % WR_TRACE_FAULTS] = p->traced;
    __atomic_store_n(&p->trace->faults_count, p->traced_count, __ATOMIC_RELEASE);
}
