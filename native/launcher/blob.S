/* SPDX-License-Identifier: Apache-2.0 */
    .section .rodata
    .balign 4096
    .globl resident_blob, resident_blob_end
resident_blob:
    .incbin "resident.bin"
resident_blob_end:
    .balign 8

    .section .note.GNU-stack, "", @progbits
