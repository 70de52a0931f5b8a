/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pager's other threads have in common: they sleep until there may be work, decode with a decoder of their own, and
 * are gone before the pager says that all is loaded.
 */
#include <linux/futex.h>
#include <sys/syscall.h>

#include "pager.h"

void worker_ring(struct worker *worker)
{
    __atomic_add_fetch(&worker->bell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&worker->asleep, __ATOMIC_SEQ_CST))
        raw3(SYS_futex, &worker->bell, FUTEX_WAKE, 1);
}

uint64_t worker_init(const struct pager *p, struct worker *worker, uint8_t *memory)
{
    uint64_t used = p->rt->decoder_bytes + p->rt->input_bytes;

    worker->decoder = (struct decoder){
        .memory = memory,
        .input = memory + p->rt->decoder_bytes,
        .packed = memory + used,
    };
    used += WR_CHUNK_BYTES;
    /* The last thing written: the other thread looks at nothing else before it has seen it set. */
    __atomic_store_n(&worker->usable, decoder_init(p, &worker->decoder) == 0, __ATOMIC_SEQ_CST);
    worker_ring(worker);
    return used;
}

/* The region may be unmapped as soon as the pager says that all is loaded: by then no other thread may run there.
 * The kernel clears the word when the thread has left its mm (CLONE_CHILD_CLEARTID, mm_release). */
void worker_stop(struct worker *worker, uint32_t *word)
{
    uint32_t tid;

    __atomic_store_n(&worker->stop, 1, __ATOMIC_SEQ_CST);
    worker_ring(worker);
    while ((tid = __atomic_load_n(word, __ATOMIC_SEQ_CST)) != 0)
        raw4(SYS_futex, word, FUTEX_WAIT, tid, 0);
}

_Noreturn void worker_run(struct pager *p, struct worker *worker, int (*work)(struct pager *p))
{
    for (;;) {
        uint32_t bell = __atomic_load_n(&worker->bell, __ATOMIC_SEQ_CST);

        if (__atomic_load_n(&worker->stop, __ATOMIC_SEQ_CST))
            raw1(SYS_exit, 0);
        if (__atomic_load_n(&worker->usable, __ATOMIC_SEQ_CST) && work(p))
            continue;
        __atomic_store_n(&worker->asleep, 1, __ATOMIC_SEQ_CST);
        raw4(SYS_futex, &worker->bell, FUTEX_WAIT, bell, 0);
        __atomic_store_n(&worker->asleep, 0, __ATOMIC_SEQ_CST);
    }
}
