/* SPDX-License-Identifier: Apache-2.0 */
#include "image.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "frame.h"
#include "say.h"

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + WR_PAGE_BYTES - 1) & ~(uint64_t)(WR_PAGE_BYTES - 1);
}

const struct wr_header *image_header(const struct image *image)
{
    return (const struct wr_header *)image->base;
}

const struct wr_process *image_process(const struct image *image, uint32_t index)
{
    return (const struct wr_process *)(image->base + image_header(image)->processes_offset) + index;
}

const int32_t *image_pids(const struct image *image)
{
    return (const int32_t *)(image->base + image_header(image)->pids_offset);
}

const struct wr_program *image_program(const struct image *image, uint32_t index)
{
    const struct wr_header *header = image_header(image);
    if (index >= header->programs_count)
        return NULL;
    return (const struct wr_program *)(image->base + header->programs_offset) + index;
}

const struct wr_op *image_op(const struct image *image, const struct wr_program *program, uint32_t index)
{
    if (index >= program->ops_count)
        return NULL;
    return (const struct wr_op *)(image->base + program->ops_offset) + index;
}

const struct wr_object *image_object(const struct image *image, const struct wr_op *op)
{
    const struct wr_header *header = image_header(image);
    if (op->object >= header->objects_count)
        return NULL;
    return (const struct wr_object *)(image->base + header->objects_offset) + op->object;
}

const char *image_text(const struct image *image, uint32_t offset)
{
    return (const char *)image->base + offset;
}

void image_load(struct image *image, const struct store *store, const char *name)
{
    uint32_t check;
    image->name = name;
    image->id = store_find(store, name, &check);
    struct bytes frame = store_image(store, image->id);
    if (frame_check(frame) != check)
        store_damaged(store, "the image is not the one that its name was given to");
    image->bytes = frame_content_bytes(store, "the image", frame, IMAGE_BYTES_MAX);
    if (image->bytes < sizeof(struct wr_header))
        store_damaged(store, "the image has only %llu bytes", (unsigned long long)image->bytes);
    image->base =
        mmap(NULL, page_up(image->bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (image->base == MAP_FAILED)
        die("no memory for the image (%llu bytes): %s", (unsigned long long)image->bytes, strerror(errno));
    frame_decode(store, "the image", frame, image->base, image->bytes);
    const struct wr_header *header = image_header(image);
    if (memcmp(header->magic, "RSTRIMG", sizeof(header->magic)) != 0)
        store_damaged(store, "the image does not begin as one");
    if (header->version != WR_VERSION)
        die("the image has version %u, and this restorer restores version %d: use the version that wrote it",
            header->version, WR_VERSION);
    const char *invalid = image_invalid(image);
    if (invalid != NULL)
        store_damaged(store, "the image is invalid: %s", invalid);
}

static const struct wr_port *image_port(const struct image *image, uint32_t index)
{
    return (const struct wr_port *)(image->base + image_header(image)->ports_offset) + index;
}

static const char *protocol_word(uint32_t protocol)
{
    return protocol == IPPROTO_UDP ? "udp" : "tcp";
}

/* Read before anything is replaced, so that --publish 80:81 --publish 81:80 swaps. */
static uint16_t port_value(const struct image *image, const struct wr_port *port)
{
    uint16_t value;
    memcpy(&value, image->base + port->value_offset, sizeof(value));
    return ntohs(value);
}

static void die_no_such_port(const struct image *image, const struct publish *publish)
{
    char list[512] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < image_header(image)->ports_count && n + 16 < sizeof(list); i++) {
        const struct wr_port *port = image_port(image, i);
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%u/%s", i == 0 ? "" : ", ",
                              port_value(image, port), protocol_word(port->protocol));
    }
    die("--publish: the image does not listen on %u/%s; it listens on %s", publish->old_port,
        protocol_word(publish->protocol), n == 0 ? "no port" : list);
}

static const struct publish *find_publish(const struct options *options, uint16_t port, uint32_t protocol,
                                          bool *used)
{
    for (size_t i = 0; i < options->publish_count; i++) {
        const struct publish *publish = &options->publish[i];
        if (publish->old_port == port && publish->protocol == protocol) {
            used[i] = true;
            return publish;
        }
    }
    return NULL;
}

void image_publish(const struct image *image, const struct options *options)
{
    bool used[PUBLISH_MAX] = {false};
    if (options->publish_count == 0)
        return;
    uint32_t count = image_header(image)->ports_count;
    for (uint32_t i = 0; i < count; i++) {
        const struct wr_port *port = image_port(image, i);
        find_publish(options, port_value(image, port), port->protocol, used);
    }
    for (size_t i = 0; i < options->publish_count; i++)
        if (!used[i])
            die_no_such_port(image, &options->publish[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct wr_port *port = image_port(image, i);
        const struct publish *publish = find_publish(options, port_value(image, port), port->protocol, used);
        uint16_t value = publish != NULL ? htons(publish->new_port) : htons(port_value(image, port));
        memcpy(image->base + port->value_offset, &value, sizeof(value));
    }
}
