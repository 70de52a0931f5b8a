/* SPDX-License-Identifier: Apache-2.0
 *
 * sections: spins inside a restartable sequence, rseq(2). Prints how often it was aborted when its stdin
 * ends, or "unregistered".
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/rseq.h>
#include <unistd.h>

static long once(struct rseq *area, long turns)
{
    long left = turns;

    __asm__ goto volatile(".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n"
                          "3:\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"
                          "leaq 3b(%%rip), %%rax\n\tmovq %%rax, 8(%0)\n"
                          "1:\tdecq %1\n\tjnz 1b\n"
                          "2:\tjmp 5f\n\t"
                          ".byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n"
                          "4:\tjmp %l[aborted]\n"
                          "5:\n\t"
                          : "+r"(area), "+r"(left)
                          :
                          : "rax", "memory"
                          : aborted);
    return 0;
aborted:
    return 1;
}

int main(void)
{
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    struct pollfd input = {0, POLLIN, 0};
    long aborts = 0;

    if (!__rseq_size) {
        puts("unregistered");
        return 0;
    }
    puts("ready");
    fflush(stdout);
    while (poll(&input, 1, 0) == 0)
        aborts += once(area, 300000000);
    printf("%ld\n", aborts);
    return 0;
}
