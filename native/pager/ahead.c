/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding ahead: a second thread of the pager, which does nothing but decode what the fill will need next, so that
 * the pager itself only copies. It runs as SCHED_IDLE: on a CPU that nobody else wants.
 *
 * It owns its decoder, its input and the buffers of a small ring, and touches no userfaultfd and no space; it only looks
 * at the masks of what is needed, as a hint. What it decoded in vain is thrown away.
 */
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "pager.h"

enum { AHEAD_SLEEPS = 0, AHEAD_WORKS = 1, AHEAD_STOPS = 2 };

static void ring_bell(struct ahead *ahead)
{
    __atomic_add_fetch(&ahead->bell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ahead->asleep, __ATOMIC_SEQ_CST))
        raw3(SYS_futex, &ahead->bell, FUTEX_WAKE, 1);
}

uint64_t ahead_init(struct pager *p, uint8_t *memory)
{
    struct ahead *ahead = &p->ahead;
    uint64_t used = 0;

    ahead->decoder = (struct decoder){.memory = memory, .input = memory + p->rt->decoder_bytes};
    used += p->rt->decoder_bytes + p->rt->input_bytes;
    for (int i = 0; i < AHEAD_SLOTS; i++) {
        ahead->slots[i].pages = memory + used;
        used += WR_CHUNK_BYTES;
    }
    /* The last thing written: the other thread looks at nothing else before it has seen it set. */
    __atomic_store_n(&ahead->usable, decoder_init(p, &ahead->decoder) == 0, __ATOMIC_SEQ_CST);
    return used;
}

/* The next record that is needed and that nobody has taken on; -1 when there is none. */
static int64_t claim(struct pager *p)
{
    const uint16_t *need = p->spaces[0].need;
    uint64_t from = __atomic_load_n(&p->ahead.cursor, __ATOMIC_SEQ_CST);

    for (;;) {
        uint64_t index = from;

        while (index < p->records_count && !__atomic_load_n(&need[index], __ATOMIC_RELAXED))
            index++;
        if (index == p->records_count)
            return -1;
        if (__atomic_compare_exchange_n(&p->ahead.cursor, &from, index + 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return (int64_t)index;
    }
}

/* The pager's side. */

int64_t ahead_claim(struct pager *p)
{
    struct ahead *ahead = &p->ahead;

    if (!__atomic_exchange_n(&ahead->state, AHEAD_WORKS, __ATOMIC_SEQ_CST))
        ring_bell(ahead);
    return claim(p);
}

struct ahead_slot *ahead_first(struct pager *p)
{
    struct ahead *ahead = &p->ahead;

    if (__atomic_load_n(&ahead->produced, __ATOMIC_ACQUIRE) == ahead->consumed)
        return NULL;
    return &ahead->slots[ahead->consumed % AHEAD_SLOTS];
}

struct ahead_slot *ahead_find(struct pager *p, uint64_t record)
{
    struct ahead *ahead = &p->ahead;
    uint32_t end = __atomic_load_n(&ahead->produced, __ATOMIC_ACQUIRE);

    for (uint32_t i = ahead->consumed; i != end; i++)
        if (ahead->slots[i % AHEAD_SLOTS].record == record)
            return &ahead->slots[i % AHEAD_SLOTS];
    return NULL;
}

void ahead_release(struct pager *p)
{
    __atomic_add_fetch(&p->ahead.consumed, 1, __ATOMIC_SEQ_CST);
    ring_bell(&p->ahead);
}

/* The region may be unmapped as soon as the pager says that all is loaded: by then no other thread may run there.
 * The kernel clears the word when the thread has left its mm (CLONE_CHILD_CLEARTID, mm_release). */
void ahead_stop(struct pager *p)
{
    uint32_t tid;

    __atomic_store_n(&p->ahead.state, AHEAD_STOPS, __ATOMIC_SEQ_CST);
    ring_bell(&p->ahead);
    while ((tid = __atomic_load_n(&p->ctl->ahead, __ATOMIC_SEQ_CST)) != 0)
        raw4(SYS_futex, &p->ctl->ahead, FUTEX_WAIT, tid, 0);
}

/* The thread's side. */

static int work(struct pager *p)
{
    struct ahead *ahead = &p->ahead;
    struct ahead_slot *slot = &ahead->slots[ahead->produced % AHEAD_SLOTS];
    int64_t index;

    if (__atomic_load_n(&ahead->state, __ATOMIC_SEQ_CST) != AHEAD_WORKS || !ahead->usable)
        return 0;
    if (ahead->produced - __atomic_load_n(&ahead->consumed, __ATOMIC_SEQ_CST) == AHEAD_SLOTS)
        return 0;
    index = claim(p);
    if (index < 0)
        return 0;
    slot->record = (uint64_t)index;
    slot->result = decoder_run(p, &ahead->decoder, slot->record, slot->pages);
    __atomic_add_fetch(&ahead->produced, 1, __ATOMIC_RELEASE);
    return 1;
}

_Noreturn void ahead_main(const struct wr_runtime *rt)
{
    struct pager *p = (struct pager *)rt->pool;
    struct ahead *ahead = &p->ahead;

    for (;;) {
        uint32_t bell = __atomic_load_n(&ahead->bell, __ATOMIC_SEQ_CST);

        if (__atomic_load_n(&ahead->state, __ATOMIC_SEQ_CST) == AHEAD_STOPS)
            raw1(SYS_exit, 0);
        if (work(p))
            continue;
        __atomic_store_n(&ahead->asleep, 1, __ATOMIC_SEQ_CST);
        raw4(SYS_futex, &ahead->bell, FUTEX_WAIT, bell, 0);
        __atomic_store_n(&ahead->asleep, 0, __ATOMIC_SEQ_CST);
    }
}
