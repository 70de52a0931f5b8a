/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "image.h"

/* A table of `count` entries inside the blob, aligned for 8-byte members. */
static bool table_inside(const struct image *image, uint64_t offset, uint64_t count, uint64_t entry_bytes)
{
    return offset % 8 == 0 && offset <= image->bytes && count <= (image->bytes - offset) / entry_bytes;
}

static bool text_inside(const struct image *image, uint32_t offset)
{
    return offset < image->bytes && memchr(image->base + offset, 0, image->bytes - offset) != NULL;
}

static bool page_aligned(uint64_t value)
{
    return value % WR_PAGE_BYTES == 0;
}

static bool header_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    if (header->header_bytes != sizeof(*header) || header->image_id != image->id ||
        header->image_bytes != image->bytes)
        return false;
    if (header->memory_bytes < image->bytes || header->memory_bytes > IMAGE_BYTES_MAX ||
        !page_aligned(header->memory_bytes))
        return false;
    return header->fd_base >= WR_FD_BASE_MIN && header->fd_base <= INT32_MAX / 2 &&
           header->slots_count <= WR_SLOTS;
}

static bool tables_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    return table_inside(image, header->programs_offset, header->programs_count, sizeof(struct wr_program)) &&
           table_inside(image, header->objects_offset, header->objects_count, sizeof(struct wr_object)) &&
           table_inside(image, header->processes_offset, header->processes_count,
                        sizeof(struct wr_process)) &&
           table_inside(image, header->ports_offset, header->ports_count, sizeof(struct wr_port)) &&
           table_inside(image, header->pids_offset, header->pids_count, sizeof(int32_t)) &&
           header->leaders_count <= header->pids_count && header->shared_program < header->programs_count &&
           header->undo_program < header->programs_count && header->processes_count > 0 &&
           header->manifest_offset <= image->bytes &&
           header->manifest_bytes <= image->bytes - header->manifest_offset;
}

static bool objects_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    const struct wr_object *objects = (const struct wr_object *)(image->base + header->objects_offset);
    for (uint32_t i = 0; i < header->objects_count; i++)
        if (!text_inside(image, objects[i].text_offset) || !text_inside(image, objects[i].hint_offset))
            return false;
    return true;
}

static bool ports_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    const struct wr_port *ports = (const struct wr_port *)(image->base + header->ports_offset);
    for (uint32_t i = 0; i < header->ports_count; i++) {
        bool known = ports[i].protocol == IPPROTO_TCP || ports[i].protocol == IPPROTO_UDP;
        if (!known || ports[i].value_offset < sizeof(*header) || ports[i].value_offset > image->bytes - 2)
            return false;
    }
    return true;
}

static bool terminal_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    if (header->terminal_offset == 0)
        return true;
    if (!table_inside(image, header->terminal_offset, 1, sizeof(struct wr_terminal)))
        return false;
    const struct wr_terminal *terminal = (const struct wr_terminal *)(image->base + header->terminal_offset);
    return terminal->foreground < header->processes_count &&
           (terminal->master_slot == WR_NO_SLOT || terminal->master_slot < WR_SLOTS);
}

static bool arg_valid(const struct wr_header *header, const struct wr_arg *arg)
{
    switch (arg->kind) {
    case WR_IMM:
        return true;
    case WR_SLOT:
        return arg->slot < WR_SLOTS;
    case WR_DATA:
        return arg->value <= header->memory_bytes;
    case WR_CTL:
        return arg->value < sizeof(struct wr_ctl);
    case WR_TREE:
        return arg->value < sizeof(struct wr_tree);
    default:
        return false;
    }
}

/* The child runs on the stack of its program, in the region of its process. */
static bool fork_valid(const struct image *image, const struct wr_op *op)
{
    const struct wr_program *program;
    if (op->args[2].kind != WR_IMM || op->args[2].value > UINT32_MAX || op->args[3].kind != WR_IMM)
        return false;
    program = image_program(image, (uint32_t)op->args[2].value);
    return program != NULL && program->stack_offset != 0 &&
           op->args[3].value < image_header(image)->processes_count;
}

/* `behind` is how many ops of the program follow. */
static bool op_valid(const struct image *image, const struct wr_op *op, uint32_t behind)
{
    const struct wr_header *header = image_header(image);
    if (op->kind < WR_OP_SYSCALL || op->kind > WR_OP_STORM || op->expect > WR_EXPECT_OK_OR)
        return false;
    if ((op->flags & ~(WR_NR_FROM_SLOT | WR_FILE_CHECK)) != 0)
        return false;
    if ((op->flags & WR_NR_FROM_SLOT) != 0 && op->nr >= WR_SLOTS)
        return false;
    if (op->result != WR_NO_SLOT && op->result >= WR_SLOTS)
        return false;
    if (op->object != WR_NO_OBJECT && op->object >= header->objects_count)
        return false;
    for (int i = 0; i < WR_ARGS; i++)
        if (!arg_valid(header, &op->args[i]))
            return false;
    if (op->kind == WR_OP_FORK)
        return fork_valid(image, op);
    if (op->kind == WR_OP_SKIP_EQ)
        return op->args[2].kind == WR_IMM && op->args[2].value <= behind;
    if (op->kind == WR_OP_SPAWN)
        return op->args[2].kind == WR_IMM && op->args[2].value < header->programs_count;
    if (op->kind == WR_OP_PAGER)
        return op->args[0].kind == WR_IMM && op->args[0].value < header->processes_count;
    return true;
}

static bool programs_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    for (uint32_t i = 0; i < header->programs_count; i++) {
        const struct wr_program *program = image_program(image, i);
        if (program->ops_count > IMAGE_OPS_MAX ||
            !table_inside(image, program->ops_offset, program->ops_count, sizeof(struct wr_op)) ||
            !text_inside(image, program->name_offset))
            return false;
        if (program->stack_offset > header->memory_bytes || program->stack_offset % 16 != 0)
            return false;
        for (uint32_t k = 0; k < program->ops_count; k++)
            if (!op_valid(image, image_op(image, program, k), program->ops_count - k - 1))
                return false;
    }
    return true;
}

static bool segments_valid(const struct image *image, const struct wr_process *process)
{
    uint64_t last_end = 0;
    if (!table_inside(image, process->segments_offset, process->segments_count, sizeof(struct wr_segment)))
        return false;
    const struct wr_segment *segments = (const struct wr_segment *)(image->base + process->segments_offset);
    for (uint32_t i = 0; i < process->segments_count; i++) {
        const struct wr_segment *segment = &segments[i];
        if (segment->start < last_end || segment->end <= segment->start || segment->end > IMAGE_TASK_SIZE ||
            !page_aligned(segment->start) || !page_aligned(segment->end))
            return false;
        last_end = segment->end;
    }
    return true;
}

static bool bases_valid(const struct wr_process *process)
{
    for (int i = 0; i < WR_BASES; i++)
        if (process->bases[i] > IMAGE_TASK_SIZE ||
            process->base_bytes[i] > IMAGE_TASK_SIZE - process->bases[i] || !page_aligned(process->bases[i]))
            return false;
    return process->bases[0] != 0;
}

static bool processes_valid(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    for (uint32_t i = 0; i < header->processes_count; i++) {
        const struct wr_process *process = image_process(image, i);
        const struct wr_program *program = image_program(image, process->main_program);
        if (process->pid <= 0 || program == NULL || image_program(image, process->pager_program) == NULL)
            return false;
        if (program->stack_offset == 0 || process->threads == 0 || process->vdso_syscall >= IMAGE_TASK_SIZE ||
            process->channel_slot >= WR_SLOTS)
            return false;
        if (!bases_valid(process) || !segments_valid(image, process))
            return false;
    }
    return true;
}

const char *image_invalid(const struct image *image)
{
    if (!header_valid(image))
        return "its header contradicts itself";
    if (!tables_valid(image))
        return "a table lies outside of it";
    if (!objects_valid(image) || !ports_valid(image))
        return "an object or a port lies outside of it";
    if (!terminal_valid(image))
        return "its terminal is none";
    if (!programs_valid(image))
        return "a program has an impossible op";
    if (!processes_valid(image))
        return "a process of it has impossible addresses";
    return NULL;
}
