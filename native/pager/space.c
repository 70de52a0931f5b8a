/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "space.h"

static uint16_t mask_of(uint32_t first, uint32_t count)
{
    return (uint16_t)(((1u << count) - 1) << first);
}

uint64_t space_record_at(const struct space *space, uint64_t addr)
{
    uint64_t low = 0, high = space->records_count;

    while (low < high) {
        uint64_t middle = (low + high) / 2;

        if (space->records[middle].addr + WR_CHUNK_BYTES <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Index of the first view that ends above current address `addr`. */
static uint32_t view_at(const struct space *space, uint64_t addr)
{
    uint32_t low = 0, high = space->views_count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (space->views[middle].end <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint64_t view_image_end(const struct view *view)
{
    return view->image + (view->end - view->start);
}

/* The view that shows image address `addr`, or of all those above it the one that begins nearest. */
static const struct view *view_of_image(const struct space *space, uint64_t addr)
{
    const struct view *best = NULL;

    if (!space->moved) {
        uint32_t i = view_at(space, addr);

        return i < space->views_count ? &space->views[i] : NULL;
    }
    for (uint32_t i = 0; i < space->views_count; i++) {
        const struct view *view = &space->views[i];

        if (view_image_end(view) > addr && (!best || view->image < best->image))
            best = view;
    }
    return best;
}

static void insert_view(struct space *space, uint32_t at, struct view view)
{
    for (uint32_t i = space->views_count; i > at; i--)
        space->views[i] = space->views[i - 1];
    space->views[at] = view;
    space->views_count++;
}

static void remove_view(struct space *space, uint32_t at)
{
    space->views_count--;
    for (uint32_t i = at; i < space->views_count; i++)
        space->views[i] = space->views[i + 1];
}

/* Makes `addr` a border between views, so that ranges begin and end with whole ones. */
static void split(struct space *space, uint64_t addr)
{
    uint32_t i = view_at(space, addr);
    struct view upper;

    if (i == space->views_count || space->views[i].start >= addr)
        return;
    upper = space->views[i];
    upper.image += addr - upper.start;
    upper.start = addr;
    space->views[i].end = addr;
    insert_view(space, i + 1, upper);
}

uint16_t space_needed(const struct space *space, uint64_t index)
{
    return __atomic_load_n(&space->need[index], __ATOMIC_RELAXED);
}

/* Who clears a bit counts it. */
static uint32_t forget(struct space *space, uint64_t index, uint16_t pages)
{
    uint32_t gone;

    if (!(space_needed(space, index) & pages))
        return 0;
    gone = (uint32_t)__builtin_popcount(
        __atomic_fetch_and(&space->need[index], (uint16_t)~pages, __ATOMIC_SEQ_CST) & pages);
    __atomic_fetch_sub(&space->missing, gone, __ATOMIC_SEQ_CST);
    return gone;
}

uint32_t space_settle(struct space *space, uint64_t index, uint32_t first, uint32_t count)
{
    return forget(space, index, mask_of(first, count));
}

/* The pages of a record's window that lie in [start, end) of image addresses. */
static uint16_t pages_within(const struct wr_record *record, uint64_t start, uint64_t end)
{
    uint64_t addr = record->addr;
    uint64_t low = start > addr ? (start - addr) / WR_PAGE_BYTES : 0;
    uint64_t high =
        end >= addr + WR_CHUNK_BYTES ? WR_CHUNK_PAGES : (end - addr + WR_PAGE_BYTES - 1) / WR_PAGE_BYTES;

    return high > low ? mask_of((uint32_t)low, (uint32_t)(high - low)) : 0;
}

static uint64_t forget_image(struct space *space, uint64_t start, uint64_t end)
{
    uint64_t forgotten = 0;

    for (uint64_t i = space_record_at(space, start); i < space->records_count; i++) {
        if (space->records[i].addr >= end)
            break;
        forgotten += forget(space, i, pages_within(&space->records[i], start, end));
    }
    return forgotten;
}

static int is_needed(const struct space *space, const struct view *view)
{
    uint64_t end = view_image_end(view);

    for (uint64_t i = space_record_at(space, view->image); i < space->records_count; i++) {
        if (space->records[i].addr >= end)
            break;
        if (space_needed(space, i) & pages_within(&space->records[i], view->image, end))
            return 1;
    }
    return 0;
}

void space_prune(struct space *space)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < space->views_count; i++)
        if (is_needed(space, &space->views[i]))
            space->views[kept++] = space->views[i];
    space->views_count = kept;
}

void space_init(struct space *space, const struct wr_segment *segments, uint32_t segments_count)
{
    space->views_count = 0;
    space->moved = 0;
    space->next = 0;
    space->missing = 0;
    for (uint32_t i = 0; i < segments_count; i++) {
        const struct wr_segment *s = &segments[i];

        if (s->flags & WR_SEGMENT_LAZY)
            space->views[space->views_count++] =
                (struct view){.start = s->start, .end = s->end, .image = s->start, .flags = s->flags};
    }
    for (uint64_t i = 0; i < space->records_count; i++) {
        space->need[i] = space->records[i].flags & WR_RECORD_SHARED ? 0 : space->records[i].mask;
        space->missing += (uint64_t)__builtin_popcount(space->need[i]);
    }
}

void space_keep_all(struct space *space)
{
    for (uint32_t i = 0; i < space->views_count; i++)
        space->views[i].flags &= ~(uint32_t)WR_SEGMENT_WIPEONFORK;
}

void space_wipe(struct space *space, uint64_t start, uint64_t end)
{
    split(space, start);
    split(space, end);
    for (uint32_t i = view_at(space, start); i < space->views_count && space->views[i].start < end; i++)
        space->views[i].flags |= WR_SEGMENT_WIPEONFORK;
}

void space_fork(struct space *child, const struct space *parent)
{
    child->moved = parent->moved;
    child->missing = parent->missing;
    child->next = 0;
    child->left_count = 0;
    child->late = parent->late;
    child->late_left = 1; /* what is still to be read of it is read from the parent */
    child->views_count = parent->views_count;
    for (uint32_t i = 0; i < parent->views_count; i++)
        child->views[i] = parent->views[i];
    for (uint64_t i = 0; i < parent->records_count; i++)
        child->need[i] = parent->need[i];
    for (uint32_t i = 0; i < child->views_count; i++)
        if (child->views[i].flags & WR_SEGMENT_WIPEONFORK)
            forget_image(child, child->views[i].image, view_image_end(&child->views[i]));
}

uint64_t space_discard(struct space *space, uint64_t start, uint64_t end)
{
    uint64_t forgotten = 0;

    for (uint32_t i = view_at(space, start); i < space->views_count && space->views[i].start < end; i++) {
        const struct view *view = &space->views[i];
        uint64_t low = view->start > start ? view->start : start;
        uint64_t high = view->end < end ? view->end : end;

        forgotten +=
            forget_image(space, view->image + (low - view->start), view->image + (high - view->start));
    }
    return forgotten;
}

uint64_t space_unmap(struct space *space, uint64_t start, uint64_t end)
{
    uint64_t forgotten = space_discard(space, start, end);
    uint32_t i;

    split(space, start);
    split(space, end);
    i = view_at(space, start);
    while (i < space->views_count && space->views[i].start < end)
        remove_view(space, i);
    return forgotten;
}

/* The moved views are taken out and put in one by one: source and target may lie on either side of each other. */
uint64_t space_remap(struct space *space, uint64_t from, uint64_t to, uint64_t bytes)
{
    uint64_t forgotten = space_unmap(space, to, to + bytes);

    split(space, from);
    split(space, from + bytes);
    for (;;) {
        uint32_t i = view_at(space, from);
        struct view view;

        if (i == space->views_count || space->views[i].start >= from + bytes)
            break;
        view = space->views[i];
        remove_view(space, i);
        view.end = view.end - from + to;
        view.start = view.start - from + to;
        insert_view(space, view_at(space, view.start), view);
        space->moved = 1;
    }
    return forgotten;
}

uint64_t space_shown(const struct space *space, uint64_t addr)
{
    uint32_t i = view_at(space, addr);

    if (i == space->views_count || space->views[i].start > addr)
        return 0;
    return space->views[i].image + (addr - space->views[i].start);
}

uint64_t space_below(const struct space *space, uint64_t addr)
{
    uint32_t i = view_at(space, addr);

    return i ? space->views[i - 1].end : 0;
}

void space_grow(struct space *space, uint64_t addr)
{
    space->views[view_at(space, addr) - 1].end = (addr & ~(uint64_t)(WR_PAGE_BYTES - 1)) + WR_PAGE_BYTES;
}

/* Neighbours that show one piece become one view. */
static void join(struct space *space)
{
    uint32_t kept = 0;

    for (uint32_t i = 1; i < space->views_count; i++) {
        struct view *last = &space->views[kept], *view = &space->views[i];

        if (last->end == view->start && view_image_end(last) == view->image && last->flags == view->flags)
            last->end = view->end;
        else
            space->views[++kept] = *view;
    }
    space->views_count = space->views_count ? kept + 1 : 0;
}

int space_duplicate(struct space *space, uint64_t from, uint64_t to, uint64_t bytes)
{
    uint64_t at = from, end = from + (bytes ? bytes : WR_PAGE_BYTES);

    if (!space_shown(space, from))
        return 0;
    space_unmap(space, to, to + (end - from));
    while (at < end) {
        uint32_t i = view_at(space, at);
        struct view view;

        if (i == space->views_count || space->views[i].start >= end)
            break;
        if (!space_has_room(space))
            join(space);
        if (!space_has_room(space))
            return -1;
        view = space->views[view_at(space, at)];
        at = view.end;
        if (view.start < from) {
            view.image += from - view.start;
            view.start = from;
        }
        view.end = (view.end < end ? view.end : end) - from + to;
        view.start = view.start - from + to;
        insert_view(space, view_at(space, view.start), view);
    }
    return 0;
}

int space_shows(const struct space *space, uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < space->views_count; i++)
        if (space->views[i].image < end && start < view_image_end(&space->views[i]))
            return 1;
    return 0;
}

int space_has_room(const struct space *space)
{
    return space->views_count + SPACE_SPARE_VIEWS <= space->views_max;
}

int space_covers(const struct space *space, uint64_t start, uint64_t end)
{
    uint32_t i = view_at(space, start);

    return i < space->views_count && space->views[i].start < end;
}

int64_t space_wanted(const struct space *space, uint64_t addr)
{
    uint32_t i = view_at(space, addr);
    uint64_t image, record;

    if (i == space->views_count || space->views[i].start > addr)
        return -1;
    image = space->views[i].image + (addr - space->views[i].start);
    record = space_record_at(space, image);
    if (record == space->records_count || space->records[record].addr > image)
        return -1;
    if (!(space_needed(space, record) >> ((image - space->records[record].addr) / WR_PAGE_BYTES) & 1))
        return -1;
    return (int64_t)record;
}

int space_next_run(struct space *space, uint64_t index, uint32_t from, struct run *run)
{
    uint64_t window = space->records[index].addr;
    uint32_t need;

    while (from < WR_CHUNK_PAGES && (need = space_needed(space, index)) >> from) {
        const struct view *view;
        uint64_t image;
        uint32_t end;

        from += (uint32_t)__builtin_ctz(need >> from);
        image = window + from * (uint64_t)WR_PAGE_BYTES;
        view = view_of_image(space, image);
        if (!view || view->image > image) {
            space_settle(space, index, from, 1);
            continue;
        }
        for (end = from + 1; end < WR_CHUNK_PAGES; end++)
            if (!(need >> end & 1) || window + end * (uint64_t)WR_PAGE_BYTES >= view_image_end(view))
                break;
        *run = (struct run){.at = view->start + (image - view->image),
                            .first = from,
                            .count = end - from,
                            .flags = view->flags};
        return 1;
    }
    return 0;
}

uint64_t space_place(const struct space *space, uint64_t image, uint64_t bytes, uint32_t *flags)
{
    const struct view *view = view_of_image(space, image);

    if (!view || view->image > image || view_image_end(view) < image + bytes)
        return 0;
    *flags = view->flags;
    return view->start + (image - view->image);
}
