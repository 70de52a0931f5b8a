/* SPDX-License-Identifier: Apache-2.0
 *
 * What ways to install pages cost here and now. A MOVE has to flush the TLBs of all CPUs that run the program or the pager,
 * by interrupts that in a virtual machine may cost more than copying the pages, and each page that goes has to be replaced;
 * where the other CPU is idle it costs a quarter of a COPY. So both are timed, and the cheaper is taken.
 */
#include "pager.h"

enum {
    WEIGHT = 16,   /* of the past against a new one */
    LEAP = 4,      /* a thread that was interrupted counts as so many times what it was before, at most */
    PROBE = 256,   /* so many faults later the dearer way is tried again */
    FRACTION = 16, /* averages are in cycles / FRACTION */
    PAGES_MIN = 8, /* of fewer pages the call itself and the wake-up are most of what is measured */
};

void cost_note(uint64_t *average, uint64_t cycles, uint64_t pages)
{
    uint64_t before = __atomic_load_n(average, __ATOMIC_RELAXED), now = cycles * FRACTION / pages;

    if (pages < PAGES_MIN)
        return;
    if (before && now > LEAP * before)
        now = LEAP * before;
    __atomic_store_n(average, before ? before - before / WEIGHT + now / WEIGHT : now, __ATOMIC_RELAXED);
}

uint64_t cost_of_copies(const struct pager *p, uint64_t pages)
{
    return __atomic_load_n(&p->costs.copy, __ATOMIC_RELAXED) * pages / FRACTION;
}

int cost_move_pays(const struct pager *p, int replacing)
{
    uint64_t move = __atomic_load_n(&p->costs.move, __ATOMIC_RELAXED);

    if (replacing)
        move += __atomic_load_n(&p->costs.populate, __ATOMIC_RELAXED);
    return !move || move <= __atomic_load_n(&p->costs.copy, __ATOMIC_RELAXED);
}

int cost_choose_move(const struct pager *p, int replacing)
{
    return cost_move_pays(p, replacing) || p->counters->faults % PROBE == 0;
}
