/* SPDX-License-Identifier: Apache-2.0
 * Loops that keep values in every register there is: general, flags, vector, mask, x87, MXCSR, control word. */
#include "test.h"
#include <immintrin.h>
#include <pthread.h>
#include "../../images/threads/vectors.h"

#define GENERAL 13
#define FLAGS   0xcd5UL /* CF PF AF ZF SF DF OF; rt_sigreturn cannot set ID (FIX_EFLAGS in arch/x86) */

static volatile int go;

/* keep_general(numbers, flag): loads 13 registers and the flags from numbers, loops until *flag by means of
 * instructions that leave the flags alone, writes all of it back. rcx is zero meanwhile, r15 the pointer. */
void keep_general(uint64_t numbers[GENERAL + 1], const volatile int *flag);
__asm__(
    ".text\n.globl keep_general\nkeep_general:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdi\n mov %rsi, %r15\n"
    "push 104(%rdi)\n popf\n"
    "mov (%rdi), %rax\n mov 8(%rdi), %rbx\n mov 16(%rdi), %rdx\n mov 24(%rdi), %rsi\n mov 32(%rdi), %rbp\n"
    "mov 40(%rdi), %r8\n mov 48(%rdi), %r9\n mov 56(%rdi), %r10\n mov 64(%rdi), %r11\n mov 72(%rdi), %r12\n"
    "mov 80(%rdi), %r13\n mov 88(%rdi), %r14\n mov 96(%rdi), %rdi\n"
    "1: mov (%r15), %ecx\n jrcxz 1b\n"
    "mov (%rsp), %r15\n mov %rdi, 96(%r15)\n"
    "pushf\n pop %rcx\n mov %rcx, 104(%r15)\n cld\n"
    "mov %rax, (%r15)\n mov %rbx, 8(%r15)\n mov %rdx, 16(%r15)\n mov %rsi, 24(%r15)\n mov %rbp, 32(%r15)\n"
    "mov %r8, 40(%r15)\n mov %r9, 48(%r15)\n mov %r10, 56(%r15)\n mov %r11, 64(%r15)\n mov %r12, 72(%r15)\n"
    "mov %r13, 80(%r15)\n mov %r14, 88(%r15)\n"
    "pop %rdi\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static void *general(void *result)
{
    uint64_t numbers[GENERAL + 1];
    for (int i = 0; i < GENERAL; i++)
        numbers[i] = 0x1111222233334444ULL * (i + 1);
    numbers[GENERAL] = FLAGS;
    keep_general(numbers, &go);
    long wrong = (numbers[GENERAL] & FLAGS) != FLAGS ? 1L << GENERAL : 0;
    for (int i = 0; i < GENERAL; i++)
        wrong |= numbers[i] != 0x1111222233334444ULL * (i + 1) ? 1L << i : 0;
    if (wrong >> GENERAL)
        test_differs("the flags are %#lx", (long)numbers[GENERAL]);
    *(long *)result = wrong; /* a bit for each: rax, rbx, rdx, rsi, rbp, r8 to r14, rdi, flags */
    return NULL;
}

static void *vector(void *result)
{
    long wrong = 0;
    for (uint64_t round = 1; !go; round++)
        wrong += vectors_keep(round * 0x9e3779b97f4a7c15ULL, 1000000);
    *(long *)result = wrong;
    return NULL;
}

/* Denormals are zero, rounding goes up, x87 computes in single precision and rounds down. */
static void *control(void *result)
{
    unsigned int mxcsr = 0xdfc0;
    unsigned short word = 0x047f, now;
    _mm_setcsr(mxcsr);
    __asm__ volatile("fldcw %0" : : "m"(word));
    while (!go)
        _mm_pause();
    __asm__ volatile("fnstcw %0" : "=m"(now));
    *(long *)result = (_mm_getcsr() & ~0x3fu) != (mxcsr & ~0x3fu) || now != word;
    return NULL;
}

int main(int argc, char **argv)
{
    static void *(*const loops[])(void *) = {general, vector, control};
    pthread_t threads[3];
    long wrong[3];
    test_init(argc, argv);
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&threads[i], NULL, loops[i], &wrong[i]) == 0);
    test_wait();
    go = 1;
    for (int i = 0; i < 3; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    EXPECT_EQ(wrong[0], 0);
    EXPECT_EQ(wrong[1], 0);
    EXPECT_EQ(wrong[2], 0);
    return test_done();
}
