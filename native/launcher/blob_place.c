/* SPDX-License-Identifier: Apache-2.0 */
#include "blob.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "say.h"

extern const unsigned char resident_blob[], resident_blob_end[];

const struct resident *resident_table(void)
{
    const struct resident *table = (const struct resident *)resident_blob;
    uint64_t bytes = (uint64_t)(resident_blob_end - resident_blob);
    if (bytes < sizeof(*table) || table->magic != RESIDENT_MAGIC || table->file_bytes > bytes ||
        table->file_bytes > table->memory_bytes || table->text_bytes > table->memory_bytes ||
        table->text_bytes % WR_PAGE_BYTES != 0 || table->memory_bytes % WR_PAGE_BYTES != 0 ||
        table->rela_offset > table->file_bytes ||
        table->rela_count > (table->file_bytes - table->rela_offset) / sizeof(Elf64_Rela))
        die("this restorer-launch was built wrongly: its resident blob is invalid; build it again");
    return table;
}

void resident_place(uint64_t base)
{
    const struct resident *table = resident_table();
    memcpy((void *)base, resident_blob, table->file_bytes);
    const Elf64_Rela *rela = (const Elf64_Rela *)(resident_blob + table->rela_offset);
    for (uint64_t i = 0; i < table->rela_count; i++) {
        if (ELF64_R_TYPE(rela[i].r_info) != R_X86_64_RELATIVE ||
            rela[i].r_offset > table->memory_bytes - sizeof(uint64_t))
            die("this restorer-launch was built wrongly: its resident blob needs a linker; build it again");
        *(uint64_t *)(base + rela[i].r_offset) = base + (uint64_t)rela[i].r_addend;
    }
    if (mprotect((void *)base, table->text_bytes, PROT_READ | PROT_EXEC) != 0)
        die("cannot make the loader executable: %s; a security policy forbids it", strerror(errno));
}
