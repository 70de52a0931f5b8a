/* SPDX-License-Identifier: Apache-2.0
 *
 * vectors_keep(seed, rounds): numbers are put into every vector register the CPU has, stay there for `rounds`
 * steps of arithmetic, and are compared with what they must have become. 0 when all of them are right.
 */
#ifndef VECTORS_H
#define VECTORS_H
#include <stdint.h>
#include <string.h>

#define VECTORS_16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define VECTORS_32 VECTORS_16 ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

/* Each lane starts as seed * (place + 1), and `seed` is added to it in each round by register 0's own lane. */
static void vectors_fill(uint64_t *lanes, int registers, int width, uint64_t seed)
{
    for (int i = 0; i < registers * width; i++)
        lanes[i] = seed * (uint64_t)(i + 1);
}

static int vectors_wrong(const uint64_t *lanes, int registers, int width, uint64_t seed, uint64_t rounds)
{
    int wrong = 0;
    for (int i = 0; i < registers * width; i++) {
        uint64_t start = seed * (uint64_t)(i + 1), added = seed * (uint64_t)(i % width + 1);
        wrong += lanes[i] != (i < width ? start : start + rounds * added);
    }
    return wrong;
}

__attribute__((target("avx512f,avx512bw"), noinline)) static int vectors_keep_512(uint64_t seed,
                                                                                  uint64_t rounds)
{
    uint64_t lanes[32 * 8] __attribute__((aligned(64))), masks[7], left = rounds;
    vectors_fill(lanes, 32, 8, seed);
    for (int i = 0; i < 7; i++)
        masks[i] = seed ^ (0x0101010101010101ULL << i);
    __asm__ volatile(
        ".irp n," VECTORS_32 "\n vmovdqa64 64*\\n(%[lanes]), %%zmm\\n\n .endr\n"
        ".irp n,1,2,3,4,5,6,7\n kmovq 8*\\n-8(%[masks]), %%k\\n\n .endr\n"
        "1:\n"
        ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
        " vpaddq %%zmm0, %%zmm\\n, %%zmm\\n\n .endr\n"
        "dec %[left]\n jnz 1b\n"
        ".irp n," VECTORS_32 "\n vmovdqa64 %%zmm\\n, 64*\\n(%[lanes])\n .endr\n"
        ".irp n,1,2,3,4,5,6,7\n kmovq %%k\\n, 8*\\n-8(%[masks])\n .endr\n"
        "vzeroupper\n"
        : [left] "+r"(left)
        : [lanes] "r"(lanes), [masks] "r"(masks)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
          "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
          "k1", "k2", "k3", "k4", "k5", "k6", "k7");
    int wrong = vectors_wrong(lanes, 32, 8, seed, rounds);
    for (int i = 0; i < 7; i++)
        wrong += masks[i] != (seed ^ (0x0101010101010101ULL << i));
    return wrong;
}

__attribute__((target("avx2"), noinline)) static int vectors_keep_256(uint64_t seed, uint64_t rounds)
{
    uint64_t lanes[16 * 4] __attribute__((aligned(32))), left = rounds;
    vectors_fill(lanes, 16, 4, seed);
    __asm__ volatile(
        ".irp n," VECTORS_16 "\n vmovdqa 32*\\n(%[lanes]), %%ymm\\n\n .endr\n"
        "1:\n"
        ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpaddq %%ymm0, %%ymm\\n, %%ymm\\n\n .endr\n"
        "dec %[left]\n jnz 1b\n"
        ".irp n," VECTORS_16 "\n vmovdqa %%ymm\\n, 32*\\n(%[lanes])\n .endr\n"
        "vzeroupper\n"
        : [left] "+r"(left)
        : [lanes] "r"(lanes)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return vectors_wrong(lanes, 16, 4, seed, rounds);
}

__attribute__((noinline)) static int vectors_keep_128(uint64_t seed, uint64_t rounds)
{
    uint64_t lanes[16 * 2] __attribute__((aligned(16))), left = rounds;
    vectors_fill(lanes, 16, 2, seed);
    __asm__ volatile(".irp n," VECTORS_16 "\n movdqa 16*\\n(%[lanes]), %%xmm\\n\n .endr\n"
                     "1:\n"
                     ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n paddq %%xmm0, %%xmm\\n\n .endr\n"
                     "dec %[left]\n jnz 1b\n"
                     ".irp n," VECTORS_16 "\n movdqa %%xmm\\n, 16*\\n(%[lanes])\n .endr\n"
                     : [left] "+r"(left)
                     : [lanes] "r"(lanes)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return vectors_wrong(lanes, 16, 2, seed, rounds);
}

/* Eight numbers on the x87 stack while the loop runs, popped in reverse. */
__attribute__((noinline)) static int vectors_keep_x87(uint64_t seed, uint64_t rounds)
{
    double numbers[8], back[8];
    uint64_t left = rounds;
    for (int i = 0; i < 8; i++)
        numbers[i] = (double)(seed >> 12) + i;
    __asm__ volatile(".irp n,0,1,2,3,4,5,6,7\n fldl 8*\\n(%[numbers])\n .endr\n"
                     "1:\n dec %[left]\n jnz 1b\n"
                     ".irp n,7,6,5,4,3,2,1,0\n fstpl 8*\\n(%[back])\n .endr\n"
                     : [left] "+r"(left)
                     : [numbers] "r"(numbers), [back] "r"(back)
                     : "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    return memcmp(numbers, back, sizeof numbers) != 0;
}

static int vectors_keep(uint64_t seed, uint64_t rounds)
{
    int wrong = vectors_keep_128(seed, rounds) + vectors_keep_x87(seed, rounds);
    if (__builtin_cpu_supports("avx2"))
        wrong += vectors_keep_256(seed, rounds);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        wrong += vectors_keep_512(seed, rounds);
    return wrong;
}

#endif
