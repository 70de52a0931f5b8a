/* SPDX-License-Identifier: Apache-2.0
 *
 * struct resident (resident.h): differences of symbols, so that none of it needs a relocation itself.
 */
    .section .head, "a"
    .globl resident_head
    .hidden resident_head
resident_head:
    .quad 0x544e454449534552
    .quad resident_text_end - resident_head
    .quad resident_file_end - resident_head
    .quad resident_memory_end - resident_head
    .quad resident_rela - resident_head
    .quad resident_rela_count - resident_head
    .quad loader_run - resident_head
    .quad loader_start - resident_head
    .quad 262144
    .section .note.GNU-stack, "", @progbits
