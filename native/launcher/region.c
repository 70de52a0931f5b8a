/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blob.h"
#include "say.h"
#include "telemetry.h"

#define STAGING_BYTES     (UINT64_C(4) << 20)
#define POOL_BYTES_MIN    (UINT64_C(4) << 20)
#define PAGER_STACK_BYTES (UINT64_C(64) << 10)
#define BATCHES_BYTES     ((uint64_t)WR_BATCHES * WR_HUGE_BYTES)
#define PLACES_MAX        4096
#define HOT_INPUT_BYTES   (UINT64_C(2) * WR_HOT_BLOCK_BYTES) /* above ZSTD_compressBound of a block */

/* Offsets from the start of the region; each part begins where the one before it ends. */
struct layout {
    uint64_t resident, runtime, runtimes, tree, ctl, trace, slots, image, records, pool, decoder, input,
        stack, tls, scratch;
    uint64_t hot, hot_buffer, hot_input;
    uint64_t shared, shared_records, shared_end;
    uint64_t low_guard, staging, middle_guard, batches, high_guard, end;
    uint64_t pool_bytes, decoder_bytes;
};

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + WR_PAGE_BYTES - 1) & ~(uint64_t)(WR_PAGE_BYTES - 1);
}

static uint64_t take(uint64_t *cursor, uint64_t bytes)
{
    uint64_t at = *cursor;
    *cursor += page_up(bytes);
    return at;
}

/* 64 address spaces (forked children) of two bytes of mask a record, and 32 bytes for each of at least 16,384 views. It
 * is never touched but where a program has that many. */
static uint64_t pool_bytes(uint64_t records)
{
    uint64_t bytes = page_up(64 * (records * 2 + 655360));
    return bytes < POOL_BYTES_MIN ? POOL_BYTES_MIN : bytes;
}

/* Records of the first process, if some process has shared memory that comes lazily: its page index holds them. */
static uint64_t shared_count(const struct image *image)
{
    for (uint32_t i = 0; i < image_header(image)->processes_count; i++) {
        const struct wr_process *process = image_process(image, i);
        const struct wr_segment *segments =
            (const struct wr_segment *)(image->base + process->segments_offset);
        for (uint32_t k = 0; k < process->segments_count; k++)
            if ((segments[k].flags & WR_SEGMENT_WINDOW) != 0)
                return image_process(image, 0)->records_count;
    }
    return 0;
}

static struct layout lay_out(const struct image *image, uint32_t index, const struct hot *hot,
                             const struct resident *resident)
{
    struct layout at;
    uint64_t cursor = 0;
    uint64_t records = image_process(image, index)->records_count;
    uint64_t shared = shared_count(image);
    /* The views of shared memory are as many again. */
    at.pool_bytes = pool_bytes(records) + (shared != 0 ? 2 * pool_bytes(0) : 0);
    at.decoder_bytes = page_up(resident->decoder_bytes);
    at.resident = take(&cursor, resident->memory_bytes);
    at.runtime = take(&cursor, sizeof(struct wr_runtime));
    at.runtimes = take(&cursor, image_header(image)->processes_count * sizeof(uint64_t));
    at.tree = take(&cursor, sizeof(struct wr_tree));
    at.ctl = take(&cursor, sizeof(struct wr_ctl));
    at.trace = take(&cursor, sizeof(struct wr_trace) + records * sizeof(struct wr_used));
    at.shared = take(&cursor, shared != 0 ? sizeof(struct wr_shared) + shared * 3 : 0);
    at.shared_records = take(&cursor, index != 0 ? shared * sizeof(struct wr_record) : 0);
    at.shared_end = cursor;
    at.slots = take(&cursor, WR_SLOTS * sizeof(uint64_t));
    at.image = take(&cursor, image_header(image)->memory_bytes);
    at.records = take(&cursor, (records + 1) * sizeof(struct wr_record));
    at.pool = take(&cursor, at.pool_bytes);
    at.decoder = take(&cursor, at.decoder_bytes);
    at.input = take(&cursor, IMAGE_FRAME_BYTES_MAX);
    at.hot = take(&cursor, hot->bytes);
    at.hot_buffer = take(&cursor, hot->index != NULL ? WR_HOT_BLOCK_BYTES : 0);
    at.hot_input = take(&cursor, hot->index != NULL ? HOT_INPUT_BYTES : 0);
    at.stack = take(&cursor, PAGER_STACK_BYTES);
    at.tls = take(&cursor, WR_PAGE_BYTES);
    at.scratch = take(&cursor, WR_SCRATCH_BYTES);
    at.low_guard = take(&cursor, WR_PAGE_BYTES);
    at.staging = take(&cursor, STAGING_BYTES);
    at.middle_guard =
        take(&cursor, WR_HUGE_BYTES + WR_PAGE_BYTES); /* the batches begin at a multiple in it */
    at.batches = take(&cursor, BATCHES_BYTES);
    at.high_guard = take(&cursor, WR_PAGE_BYTES);
    at.end = cursor;
    return at;
}

static bool reserve_at(uint64_t base, uint64_t bytes)
{
    void *at = mmap((void *)base, bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at == MAP_FAILED)
        return false;
    if ((uint64_t)at == base)
        return true;
    /* A kernel before MAP_FIXED_NOREPLACE (4.17) takes the address as a hint. */
    munmap(at, bytes);
    return false;
}

static bool overlaps_segment(const struct image *image, const struct wr_process *process, uint64_t start,
                             uint64_t end)
{
    const struct wr_segment *segments = (const struct wr_segment *)(image->base + process->segments_offset);
    for (uint32_t i = 0; i < process->segments_count; i++)
        if (segments[i].start < end && start < segments[i].end)
            return true;
    return false;
}

/* The launcher's own mappings may lie in a hole of the image, and so do the regions of other processes, whose holes are
 * alike: one step after the other, each region beginning at a place of its own. */
static uint64_t reserve_in_hole(const struct image *image, const struct wr_process *process, int hole,
                                uint64_t bytes)
{
    uint64_t room = process->base_bytes[hole], places = room / bytes;
    uint64_t first = (uint64_t)(process - image_process(image, 0));
    for (uint64_t i = 0; i < places && i < PLACES_MAX; i++) {
        uint64_t base = process->bases[hole] + (first + i) % places * bytes;
        if (!overlaps_segment(image, process, base, base + bytes) && reserve_at(base, bytes))
            return base;
    }
    return 0;
}

static uint64_t reserve(const struct image *image, const struct wr_process *process, uint64_t bytes)
{
    for (int i = 0; i < WR_BASES && process->bases[i] != 0; i++) {
        uint64_t base = reserve_in_hole(image, process, i, bytes);
        if (base != 0)
            return base;
    }
    die("no hole of the image's address space has %llu free bytes here: try again",
        (unsigned long long)bytes);
}

static void map_part(uint64_t start, uint64_t end, int sharing)
{
    if (start == end)
        return;
    void *at = mmap((void *)start, end - start, PROT_READ | PROT_WRITE,
                    sharing | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        die("no memory for the restore (%llu bytes): %s", (unsigned long long)(end - start), strerror(errno));
}

/* Moves page table entries, not bytes: the blob was decoded before its place was known. */
static void adopt_image(struct image *image, uint64_t to)
{
    uint64_t bytes = page_up(image->bytes);
    void *at = mremap(image->base, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to);
    if (at == MAP_FAILED)
        die("no memory for the restore (%llu bytes): %s", (unsigned long long)bytes, strerror(errno));
    image->base = at;
}

/* The blob as a file, which the regions of all processes but the root map: what none of them writes to is there once. */
static int image_file(const struct image *image)
{
    static int fd = -1;
    if (fd >= 0)
        return fd;
    fd = memfd_create("restorer-image", MFD_CLOEXEC);
    for (uint64_t done = 0; fd >= 0 && done < image->bytes;) {
        ssize_t n = write(fd, image->base + done, image->bytes - done);
        if (n <= 0)
            die("no memory for the restore (%llu bytes): %s", (unsigned long long)image->bytes,
                strerror(errno));
        done += (uint64_t)n;
    }
    if (fd < 0)
        die("cannot make a memfd: %s", strerror(errno));
    return fd;
}

static void map_image(const struct image *image, uint64_t to)
{
    void *at = mmap((void *)to, page_up(image->bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                    image_file(image), 0);
    if (at == MAP_FAILED)
        die("no memory for the restore (%llu bytes): %s", (unsigned long long)image->bytes, strerror(errno));
}

/* With an old length of 0 a shared mapping stays where it is and appears a second time (mremap(2)). */
static void share(uint64_t from, uint64_t to, uint64_t end)
{
    if (to == end)
        return;
    void *at = mremap((void *)from, 0, end - to, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to);
    if (at == MAP_FAILED)
        die("no memory for the restore: %s", strerror(errno));
}

/* The guard before them has a page left at least. */
static uint64_t batches_of(uint64_t base, const struct layout *at)
{
    return (base + at->batches) & ~(uint64_t)(WR_HUGE_BYTES - 1);
}

/* `root` is the region of the root process, NULL when this is it. */
static void map_parts(struct image *image, uint64_t base, const struct layout *at, const struct region *root)
{
    uint64_t blob_end = base + at->image + page_up(image->bytes);
    map_part(base + at->resident, base + at->tree, MAP_PRIVATE);
    map_part(base + at->tree, base + at->ctl, MAP_SHARED);
    telemetry_map(base + at->ctl, at->shared - at->ctl);
    map_part(base + at->slots, base + at->image, MAP_PRIVATE);
    if (root == NULL) {
        map_part(base + at->shared, base + at->shared_end, MAP_SHARED);
        adopt_image(image, base + at->image);
    } else {
        share(root->runtime->tree, base + at->tree, base + at->ctl);
        share(root->runtime->shared, base + at->shared, base + at->shared_records);
        share(root->runtime->records, base + at->shared_records, base + at->shared_end);
        map_image(image, base + at->image);
    }
    map_part(blob_end, base + at->records, MAP_PRIVATE);
    map_part(base + at->records, base + at->pool, MAP_SHARED);
    map_part(base + at->pool, base + at->low_guard, MAP_PRIVATE);
    map_part(base + at->staging, base + at->middle_guard, MAP_PRIVATE);
    map_part(batches_of(base, at), batches_of(base, at) + BATCHES_BYTES, MAP_PRIVATE);
    /* Where transparent huge pages are "always", one would be split again by the first small move. EINVAL
     * without CONFIG_TRANSPARENT_HUGEPAGE. */
    madvise((void *)(base + at->staging), STAGING_BYTES, MADV_NOHUGEPAGE);
    madvise((void *)batches_of(base, at), BATCHES_BYTES, MADV_HUGEPAGE);
}

static void fill_runtime(struct wr_runtime *runtime, uint64_t base, const struct layout *at, uint64_t records)
{
    runtime->region = base;
    runtime->region_end = base + at->end;
    runtime->image = base + at->image;
    runtime->slots = base + at->slots;
    runtime->ctl = base + at->ctl;
    runtime->tree = base + at->tree;
    runtime->runtimes = base + at->runtimes;
    runtime->trace = base + at->trace;
    if (at->shared_end != at->shared)
        runtime->shared = base + at->shared;
    runtime->shared_records =
        base + (at->shared_records != at->shared_end ? at->shared_records : at->records);
    runtime->records = base + at->records;
    runtime->records_count = records;
    runtime->pool = base + at->pool;
    runtime->pool_bytes = at->pool_bytes;
    runtime->staging = base + at->staging;
    runtime->staging_bytes = STAGING_BYTES;
    runtime->batches = batches_of(base, at);
    runtime->decoder = base + at->decoder;
    runtime->decoder_bytes = at->decoder_bytes;
    runtime->input = base + at->input;
    runtime->input_bytes = IMAGE_FRAME_BYTES_MAX;
}

static void place_hot(struct wr_runtime *runtime, const struct hot *hot, uint64_t base,
                      const struct layout *at)
{
    if (hot->index == NULL)
        return;
    memcpy((void *)(base + at->hot), hot->index, hot->bytes);
    runtime->hot = base + at->hot;
    runtime->hot_buffer = base + at->hot_buffer;
    runtime->hot_input = base + at->hot_input;
    runtime->hot_input_bytes = HOT_INPUT_BYTES;
}

static void locate(struct region *region, uint64_t base, const struct layout *at)
{
    const struct resident *resident = resident_table();
    region->start = base;
    region->end = base + at->end;
    region->runtime = (struct wr_runtime *)(base + at->runtime);
    region->ctl = (struct wr_ctl *)(base + at->ctl);
    region->trace = (struct wr_trace *)(base + at->trace);
    region->slots = (uint64_t *)(base + at->slots);
    region->records = (struct wr_record *)(base + at->records);
    region->pager_stack = base + at->stack;
    region->pager_stack_bytes = PAGER_STACK_BYTES;
    region->pager_tls = base + at->tls;
    region->scratch = base + at->scratch;
    region->run = (run_fn)(base + resident->run);
    region->enter = (start_fn)(base + resident->start);
}

void region_build(struct region *region, const struct region *root, struct image *image, uint32_t index,
                  const struct hot *hot, const struct options *options)
{
    const struct wr_process *process = image_process(image, index);
    struct layout at = lay_out(image, index, hot, resident_table());
    uint64_t base = reserve(image, process, at.end), records = process->records_count;
    map_parts(image, base, &at, root);
    resident_place(base);
    locate(region, base, &at);
    fill_runtime(region->runtime, base, &at, records);
    region->runtime->start = (uint64_t)region->enter;
    region->runtime->shared_count = shared_count(image);
    place_hot(region->runtime, hot, base, &at);
    telemetry_init(region, image, records);
    region->runtime->file_checks = options->force_files ? 0 : 1;
    region->ctl->fill = options->record && options->fill == WR_FILL_BACKGROUND ? WR_FILL_NONE : options->fill;
    *(uint64_t *)region->pager_tls = region->pager_tls;
}

void region_share(const struct region *root)
{
    const struct wr_runtime *runtime = root->runtime;
    if (runtime->shared == 0)
        return;
    uint16_t *need = (uint16_t *)((struct wr_shared *)runtime->shared + 1);
    for (uint64_t i = 0; i < runtime->shared_count; i++)
        need[i] = (root->records[i].flags & WR_RECORD_SHARED) != 0 ? root->records[i].mask : 0;
}

void region_share_index(const struct region *root)
{
    struct wr_shared *shared = (struct wr_shared *)root->runtime->shared;
    if (shared == NULL)
        return;
    __atomic_store_n(&shared->index_ready, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &shared->index_ready, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void region_link(const struct region *region, uint32_t index, const struct region *other)
{
    ((uint64_t *)region->runtime->runtimes)[index] = (uint64_t)other->runtime;
}
