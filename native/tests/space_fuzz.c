/* SPDX-License-Identifier: Apache-2.0
 *
 * pager/space.c against a model that keeps, for every page of a small address space, which image page it shows and
 * whether that page is still needed. Random events; after each the two must agree on every page. Built with the
 * address and undefined-behaviour sanitizers. The seed of a failure is printed; give it as the argument to repeat.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "space.h"

enum { PAGES = 512, WINDOWS = PAGES / WR_CHUNK_PAGES, VIEWS = 512, ROUNDS = 300, STEPS = 200, NONE = -1 };

static const uint64_t BASE = 0x10000000;

struct model {
    int shows[PAGES];  /* image page seen at a current page, or NONE */
    int needed[PAGES]; /* by image page */
    int wiped[PAGES];  /* by image page: MADV_WIPEONFORK */
};

static struct wr_record records[WINDOWS];
static uint64_t records_count;
static unsigned seed;

static uint64_t at(int page)
{
    return BASE + (uint64_t)page * WR_PAGE_BYTES;
}

static void die(const char *what, int page)
{
    fprintf(stderr, "space_fuzz: seed %u: %s at page %d\n", seed, what, page);
    exit(1);
}

static struct space make_space(void)
{
    return (struct space){.uffd = 3,
                          .views_max = VIEWS,
                          .views = calloc(VIEWS, sizeof(struct view)),
                          .need = calloc(WINDOWS, sizeof(uint16_t)),
                          .records = records,
                          .records_count = records_count};
}

static void free_space(struct space *space)
{
    free(space->views);
    free(space->need);
}

static int image_page(uint64_t index, uint32_t page)
{
    return (int)((records[index].addr - BASE) / WR_PAGE_BYTES + page);
}

static int needs(const struct space *space, int page)
{
    uint64_t i = space_record_at(space, at(page));

    return i < space->records_count && records[i].addr <= at(page) &&
           (space->need[i] >> ((at(page) - records[i].addr) / WR_PAGE_BYTES) & 1);
}

static void compare(const struct space *space, const struct model *model)
{
    uint64_t missing = 0;

    for (int page = 0; page < PAGES; page++) {
        int image = model->shows[page];
        int wanted = image != NONE && model->needed[image];
        int64_t record = space_wanted(space, at(page));

        if ((record >= 0) != wanted)
            die("space_wanted differs from the model", page);
        if (record >= 0 &&
            (records[record].addr > at(image) || records[record].addr + WR_CHUNK_BYTES <= at(image)))
            die("space_wanted gives another record", page);
        if (needs(space, page) != model->needed[page])
            die("need differs from the model", page);
        missing += (uint64_t)model->needed[page];
    }
    if (missing != space->missing)
        die("missing miscounted", (int)missing);
}

static void model_discard(struct model *model, int first, int count, int unmap)
{
    for (int page = first; page < first + count; page++) {
        if (model->shows[page] != NONE)
            model->needed[model->shows[page]] = 0;
        if (unmap)
            model->shows[page] = NONE;
    }
}

static void model_remap(struct model *model, int from, int to, int count)
{
    int moved[PAGES];

    model_discard(model, to, count, 1);
    for (int i = 0; i < count; i++) {
        moved[i] = model->shows[from + i];
        model->shows[from + i] = NONE;
    }
    for (int i = 0; i < count; i++)
        model->shows[to + i] = moved[i];
}

/* Installs one run as the pager does, and holds each page against where the model has it. */
static void install(struct space *space, struct model *model)
{
    uint64_t index = (uint64_t)rand() % records_count;
    struct run run;

    if (!space_next_run(space, index, (uint32_t)rand() % WR_CHUNK_PAGES, &run))
        return;
    for (uint32_t i = 0; i < run.count; i++) {
        int image = image_page(index, run.first + i);
        int page = (int)((run.at - BASE) / WR_PAGE_BYTES + i);

        if (page < 0 || page >= PAGES || model->shows[page] != image)
            die("run leads to the wrong place", image);
        if (!model->needed[image])
            die("run holds a page that is not needed", image);
        model->needed[image] = 0;
    }
    space_settle(space, index, run.first, run.count);
}

static void event(struct space *space, struct model *model)
{
    int first = rand() % PAGES, count = 1 + rand() % 40, to = rand() % PAGES;

    count = first + count > PAGES ? PAGES - first : count;
    switch (rand() % 7) {
    case 0:
        space_discard(space, at(first), at(first + count));
        model_discard(model, first, count, 0);
        break;
    case 1:
        space_unmap(space, at(first), at(first + count));
        model_discard(model, first, count, 1);
        break;
    case 2:
        if (to + count > PAGES || (to < first + count && first < to + count))
            break;
        space_remap(space, at(first), at(to), (uint64_t)count * WR_PAGE_BYTES);
        model_remap(model, first, to, count);
        break;
    case 3:
        space_prune(space);
        break;
    default:
        install(space, model);
    }
}

static void fork_and_compare(const struct space *parent, const struct model *model)
{
    struct space child = make_space();
    struct model after = *model;

    space_fork(&child, parent);
    for (int page = 0; page < PAGES; page++)
        if (after.shows[page] != NONE && after.wiped[after.shows[page]])
            after.needed[after.shows[page]] = 0;
    compare(&child, &after);
    free_space(&child);
}

static uint32_t make_image(struct model *model, struct wr_segment *segments)
{
    uint32_t count = 0;
    int page = 0;

    memset(model, 0, sizeof(*model));
    for (int i = 0; i < PAGES; i++)
        model->shows[i] = NONE;
    while (page < PAGES) {
        int end = page + 1 + rand() % 60, wiped = rand() % 4 == 0;

        end = end > PAGES ? PAGES : end;
        if (rand() % 3)
            segments[count++] =
                (struct wr_segment){.start = at(page),
                                    .end = at(end),
                                    .flags = WR_SEGMENT_LAZY | (wiped ? WR_SEGMENT_WIPEONFORK : 0)};
        for (; page < end; page++)
            if (count && segments[count - 1].end == at(end)) {
                model->shows[page] = page;
                model->wiped[page] = wiped;
                model->needed[page] = rand() % 3 != 0;
            }
    }
    records_count = 0;
    for (int window = 0; window < WINDOWS; window++) {
        struct wr_record record = {.addr = at(window * WR_CHUNK_PAGES)};

        for (int i = 0; i < WR_CHUNK_PAGES; i++)
            record.mask |= (uint16_t)(model->needed[window * WR_CHUNK_PAGES + i] << i);
        if (record.mask)
            records[records_count++] = record;
    }
    return count;
}

static void round_of(unsigned round)
{
    struct wr_segment segments[PAGES];
    struct model model;
    uint32_t count;
    struct space space;

    seed = round;
    srand(seed);
    count = make_image(&model, segments);
    space = make_space();
    space_init(&space, segments, count);
    compare(&space, &model);
    for (int step = 0; step < STEPS && space_has_room(&space) && records_count; step++) {
        event(&space, &model);
        compare(&space, &model);
        if (rand() % 20 == 0)
            fork_and_compare(&space, &model);
    }
    free_space(&space);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        round_of((unsigned)atoi(argv[1]));
        return 0;
    }
    for (unsigned round = 1; round <= ROUNDS; round++)
        round_of(round);
    printf("space_fuzz: %d rounds of %d events agree with the model\n", ROUNDS, STEPS);
    return 0;
}
