/* SPDX-License-Identifier: Apache-2.0
 *
 * pager/install.c against every errno that MOVE, COPY, ZEROPAGE, POISON and WAKE can give (docs/pager.md, "Every
 * errno"). First the table: each errno injected into each ioctl, and what must come of it. Then random address spaces
 * in which the errnos arise by themselves: whatever happens, a page that is there in the end is the right one, and
 * nobody goes on waiting for one that will not come. The seed of a failure is printed; give it as the argument.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "pager.h"
#include "uffd.h"

enum { PAGES = WR_CHUNK_PAGES, ROUNDS = 20000, TRIES = 64, UFFD = 5, LOG = 64 };

static const uint64_t BASE = 0x10000000;

enum op { MOVE = 1, COPY, ZEROPAGE, POISON, WAKE, OTHER };
enum content { ABSENT = 0, WHOLE, FOREIGN, ZERO, POISONED };

/* A page of the target: what is there, and in which VMA it lies (0: none). */
struct page {
    enum content content;
    int vma;
    int readonly; /* MOVE: EINVAL */
    int waits;    /* a thread waits for it */
};

static struct {
    struct page page[PAGES];
    int pinned[PAGES]; /* of the source: MOVE gives EBUSY */
    int changing;      /* so many calls get EAGAIN */
    int dead;          /* ESRCH */
    enum op fails;     /* this ioctl gets `error`, `times` times */
    int error, times;
    int partial; /* of an injected error: pages done before it */
} kernel;

static struct pager pager;
static struct wr_ctl ctl;
static struct wr_record record;
static struct space space;
static uint16_t need;
static struct view view;
static uint8_t staging[WR_CHUNK_BYTES];
static enum op called[LOG];
static int calls, lost;
static jmp_buf on_lost;
static unsigned seed;

static _Noreturn void die(const char *what, long value)
{
    fprintf(stderr, "install_errno: seed %u: %s (%ld)\n", seed, what, value);
    exit(1);
}

uint64_t trace_now(void)
{
    return 0;
}

_Noreturn void pager_lost(uint32_t what, long error)
{
    if (what != WR_LOST_INSTALL || error >= 0)
        die("lost for another reason", error);
    lost = (int)-error;
    longjmp(on_lost, 1);
}

/* Page i of the window is filled with i + 1. */
uint8_t *chunk_page(const struct pager *p, const struct decoded *decoded, uint32_t page)
{
    (void)p;
    return decoded->pages + (uint64_t)page * WR_PAGE_BYTES;
}

static int index_of(uint64_t addr)
{
    if (addr < BASE || addr >= BASE + WR_CHUNK_BYTES || addr % WR_PAGE_BYTES)
        die("an address outside of the window", (long)addr);
    return (int)((addr - BASE) / WR_PAGE_BYTES);
}

static int injected(enum op op)
{
    if (kernel.fails != op || !kernel.times)
        return 0;
    kernel.times--;
    return kernel.error;
}

static void wake(int first, int count)
{
    for (int i = first; i < first + count; i++)
        kernel.page[i].waits = 0;
}

/* What mfill_atomic and move_pages refuse before they touch a page. */
static int refusal(enum op op, int first, int count)
{
    if (kernel.changing > 0) {
        kernel.changing--;
        return EAGAIN;
    }
    if (kernel.dead)
        return ESRCH;
    for (int i = first; i < first + count; i++) {
        if (!kernel.page[i].vma)
            return ENOENT;
        if (kernel.page[i].vma != kernel.page[first].vma)
            return op == MOVE ? EINVAL : ENOENT;
        if (op == MOVE && kernel.page[i].readonly)
            return EINVAL;
    }
    return 0;
}

static int put_one(enum op op, int page, uint64_t from)
{
    int source = (int)((from - (uint64_t)staging) / WR_PAGE_BYTES);

    if (kernel.page[page].content != ABSENT)
        return EEXIST;
    if (op == MOVE && kernel.pinned[source])
        return EBUSY;
    if (*(uint8_t *)from != page + 1)
        die("the bytes of another page come to page", page);
    kernel.page[page].content = WHOLE;
    wake(page, 1);
    return 0;
}

/* As the kernel does: the pages done before an error are told as such, with EAGAIN. */
static long put_pages(enum op op, uint64_t to, uint64_t from, uint64_t bytes, int64_t *told)
{
    int first = index_of(to), count = (int)(bytes / WR_PAGE_BYTES), done = 0;
    int error = refusal(op, first, count), forced = error ? 0 : injected(op);

    while (!error && done < count) {
        error = forced && done == kernel.partial ? forced : 0;
        if (!error)
            error = put_one(op, first + done, from + (uint64_t)done * WR_PAGE_BYTES);
        done += !error;
    }
    *told = done ? (int64_t)done * WR_PAGE_BYTES : -error;
    return done == count ? 0 : done ? -EAGAIN : -error;
}

/* ZEROPAGE and POISON. */
static long put_other(enum op op, const struct uffdio_range *range, enum content content, int64_t *told)
{
    int first = index_of(range->start), count = (int)(range->len / WR_PAGE_BYTES), done = 0;
    int error = refusal(op, first, count);

    error = error ? error : injected(op);
    while (!error && done < count) {
        struct page *page = &kernel.page[first + done];

        error = page->content != ABSENT ? EEXIST : 0;
        if (error)
            break;
        page->content = content;
        done++;
    }
    if (op == ZEROPAGE)
        wake(first, done);
    *told = done ? (int64_t)done * WR_PAGE_BYTES : -error;
    return done == count ? 0 : done ? -EAGAIN : -error;
}

static long waked(const struct uffdio_range *range)
{
    int error = injected(WAKE);

    if (!error)
        wake(index_of(range->start), (int)(range->len / WR_PAGE_BYTES));
    return -error;
}

static void note(enum op op)
{
    if (calls < LOG)
        called[calls++] = op;
}

long raw6(long nr, long a, long b, long c, long d, long e, long f)
{
    struct uffdio_move *move = (void *)c;
    struct uffdio_copy *copy = (void *)c;
    struct uffdio_zeropage *zero = (void *)c;
    struct uffdio_poison *poison = (void *)c;

    (void)d, (void)e, (void)f;
    if (nr != SYS_ioctl || a != UFFD)
        die("another system call than an ioctl of the space", nr);
    switch ((unsigned long)b) {
    case UFFDIO_MOVE:
        note(MOVE);
        return put_pages(MOVE, move->dst, move->src, move->len, (int64_t *)&move->move);
    case UFFDIO_COPY:
        note(COPY);
        return put_pages(COPY, copy->dst, copy->src, copy->len, (int64_t *)&copy->copy);
    case UFFDIO_ZEROPAGE:
        note(ZEROPAGE);
        return put_other(ZEROPAGE, &zero->range, ZERO, (int64_t *)&zero->zeropage);
    case UFFDIO_POISON:
        note(POISON);
        return put_other(POISON, &poison->range, POISONED, (int64_t *)&poison->updated);
    case UFFDIO_WAKE:
        note(WAKE);
        return waked((void *)c);
    }
    die("an ioctl that installs nothing", b);
}

/* One chunk, all of it missing, wanted and waited for, in one writable VMA. */
static void setup(uint16_t mask)
{
    memset(&kernel, 0, sizeof(kernel));
    memset(&ctl, 0, sizeof(ctl));
    for (int i = 0; i < PAGES; i++) {
        kernel.page[i] = (struct page){.vma = 1, .waits = mask >> i & 1};
        memset(staging + (size_t)i * WR_PAGE_BYTES, i + 1, WR_PAGE_BYTES);
    }
    need = mask;
    record = (struct wr_record){.addr = BASE, .mask = mask};
    view = (struct view){.start = BASE,
                         .end = BASE + WR_CHUNK_BYTES,
                         .image = BASE,
                         .flags = WR_SEGMENT_LAZY | WR_SEGMENT_MOVE};
    space = (struct space){.uffd = UFFD,
                           .views_count = 1,
                           .views_max = 1,
                           .missing = (uint64_t)__builtin_popcount(mask),
                           .need = &need,
                           .views = &view,
                           .records = &record,
                           .records_count = 1};
    pager.spaces = &space;
    pager.spaces_count = 1;
    pager.records = &record;
    pager.records_count = 1;
    pager.counters = &ctl.counters;
    calls = lost = 0;
}

/* 0, -errno, or 1 when the pager has given up. */
static int install(enum op first)
{
    struct decoded decoded = {.pages = staging, .staged = first == MOVE};
    uint64_t installed = 0;

    if (setjmp(on_lost))
        return 1;
    if (first == POISON)
        return install_poison(&pager, &space, 0);
    if (first == ZEROPAGE)
        return install_zero(&pager, &space, BASE);
    return install_chunk(&pager, &space, &decoded, &installed);
}

static int was_called(enum op op)
{
    for (int i = 0; i < calls; i++)
        if (called[i] == op)
            return 1;
    return 0;
}

/* What becomes of the pages when one ioctl gives one errno, once. */
enum answer {
    THERE,   /* all pages are there, by the same ioctl or another */
    COPIED,  /* the same, by COPY and not by MOVE alone */
    AGAIN,   /* -EAGAIN: nothing forgotten, nothing installed; afterwards all come */
    GONE,    /* -ESRCH */
    SKIPPED, /* the one page is forgotten, who waited for it is woken */
    LOST,    /* the program must not run on */
};

struct row {
    enum op op;
    int error;
    enum answer several, single; /* 16 pages wanted, and one */
};

static const struct row rows[] = {
    {MOVE, EAGAIN, AGAIN, AGAIN},         {MOVE, EEXIST, THERE, SKIPPED},
    {MOVE, ENOENT, COPIED, COPIED},       {MOVE, EINVAL, COPIED, COPIED},
    {MOVE, EBUSY, COPIED, COPIED},        {MOVE, ENOMEM, COPIED, COPIED},
    {MOVE, EFAULT, COPIED, COPIED},       {MOVE, ESRCH, GONE, GONE},
    {COPY, EAGAIN, AGAIN, AGAIN},         {COPY, EEXIST, THERE, SKIPPED},
    {COPY, ENOENT, THERE, SKIPPED},       {COPY, EINVAL, THERE, LOST},
    {COPY, EBUSY, THERE, LOST},           {COPY, ENOMEM, THERE, LOST},
    {COPY, EFAULT, THERE, LOST},          {COPY, ESRCH, GONE, GONE},
    {COPY, ENOSPC, GONE, GONE},           {ZEROPAGE, EAGAIN, AGAIN, AGAIN},
    {ZEROPAGE, EEXIST, SKIPPED, SKIPPED}, {ZEROPAGE, ENOENT, SKIPPED, SKIPPED},
    {ZEROPAGE, ESRCH, GONE, GONE},        {ZEROPAGE, EINVAL, LOST, LOST},
    {ZEROPAGE, EBUSY, LOST, LOST},        {ZEROPAGE, ENOMEM, LOST, LOST},
    {ZEROPAGE, EFAULT, LOST, LOST},       {POISON, EAGAIN, AGAIN, AGAIN},
    {POISON, EEXIST, SKIPPED, SKIPPED},   {POISON, ENOENT, SKIPPED, SKIPPED},
    {POISON, ESRCH, GONE, GONE},          {POISON, EINVAL, THERE, LOST},
    {POISON, EBUSY, THERE, LOST},         {POISON, ENOMEM, THERE, LOST},
    {POISON, EFAULT, THERE, LOST},
};

static void expect(int holds, const struct row *row, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "install_errno: ioctl %d gives %s, need %#x: not so: %s\n", row->op,
            strerrorname_np(row->error), need, what);
    exit(1);
}

static int waiting(void)
{
    int count = 0;

    for (int i = 0; i < PAGES; i++)
        count += kernel.page[i].waits;
    return count;
}

static int there(void)
{
    int count = 0;

    for (int i = 0; i < PAGES; i++)
        count += kernel.page[i].content == WHOLE || kernel.page[i].content == POISONED;
    return count;
}

static void try_row(const struct row *row, uint16_t mask)
{
    enum answer answer = mask == 1 ? row->single : row->several;
    int wanted = __builtin_popcount(mask), result;

    setup(mask);
    kernel.fails = row->op;
    kernel.error = row->error;
    /* A single page is refused for good, and so is everything in an mm that is gone. */
    kernel.times = answer != AGAIN && (mask == 1 || answer == GONE) ? TRIES : 1;
    result = install(row->op);
    expect((result == 1) == (answer == LOST), row, "lost or not");
    expect(answer != LOST || lost == row->error, row, "the launcher is told the errno");
    expect((result == -ESRCH) == (answer == GONE), row, "the mm is gone or not");
    expect((result == -EAGAIN) == (answer == AGAIN), row, "events first, or not");
    if (answer == AGAIN) {
        expect(need == mask && there() == 0, row, "nothing was forgotten");
        expect(install(row->op) == 0, row, "it works when the events are read");
        answer = row->op == ZEROPAGE ? SKIPPED : THERE;
    }
    if (answer == COPIED)
        expect(was_called(COPY), row, "COPY was tried");
    if (answer == THERE || answer == COPIED)
        expect(there() ==
                   wanted - (row->error == EEXIST || row->error == ENOENT) * (row->op == COPY && wanted == 1),
               row, "all pages are there");
    if (answer != LOST && answer != GONE && row->op != ZEROPAGE)
        expect(need == 0 && space.missing == 0, row, "nothing is still needed");
    if (answer != LOST && answer != GONE)
        expect(row->op == ZEROPAGE ? !kernel.page[0].waits : waiting() == 0, row, "nobody waits");
}

/* WAKE fails only for an impossible range, and then nobody can wait there: nothing hangs on it. */
static void try_wake(void)
{
    setup(1);
    kernel.page[0].content = FOREIGN;
    kernel.fails = WAKE;
    kernel.error = EINVAL;
    kernel.times = TRIES;
    if (install(COPY) != 0 || need != 0)
        die("a WAKE that fails stops the pager", need);
}

static void make_space(void)
{
    int vma = 1;

    setup((uint16_t)(rand() & 0xffff));
    if (rand() % 3 == 0)
        kernel.changing = rand() % 4;
    kernel.dead = rand() % 40 == 0;
    for (int i = 0; i < PAGES; i++) {
        vma += rand() % 8 == 0;
        kernel.page[i].vma = rand() % 12 == 0 ? 0 : vma;
        kernel.page[i].readonly =
            i && kernel.page[i - 1].vma == vma ? kernel.page[i - 1].readonly : rand() % 4 == 0;
        kernel.pinned[i] = rand() % 8 == 0;
        if (kernel.page[i].vma && rand() % 6 == 0)
            kernel.page[i].content = FOREIGN;
    }
}

/* In the end every page that was wanted is right, or somebody else's, or has no place any more. */
static void judge(uint16_t mask, enum op op, const struct page *before)
{
    enum content right = op == POISON ? POISONED : WHOLE;

    for (int i = 0; i < PAGES; i++) {
        enum content wanted = before[i].content;

        if (mask >> i & 1 && before[i].vma && wanted == ABSENT)
            wanted = right;
        if (kernel.page[i].content != wanted)
            die("not what it should be: page", i);
        if (kernel.page[i].waits)
            die("somebody waits for ever for page", i);
    }
    if (need || space.missing)
        die("something is still needed", need);
}

static void round_of(unsigned number)
{
    static const enum op ops[] = {MOVE, COPY, POISON};
    struct page before[PAGES];
    uint16_t mask;
    int result = -EAGAIN;
    enum op op;

    seed = number;
    srand(seed);
    make_space();
    memcpy(before, kernel.page, sizeof(before));
    op = ops[rand() % 3];
    mask = need;
    for (int i = 0; i < TRIES && result == -EAGAIN; i++)
        result = install(op);
    if (kernel.dead && mask && result != -ESRCH)
        die("a dead mm was not noticed", result);
    if (kernel.dead)
        return;
    if (result != 0)
        die("gives up", result);
    judge(mask, op, before);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        round_of((unsigned)atoi(argv[1]));
        return 0;
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        try_row(&rows[i], 1);
        try_row(&rows[i], 0xffff);
        try_row(&rows[i], 0x0ff0);
    }
    try_wake();
    for (unsigned round = 1; round <= ROUNDS; round++)
        round_of(round);
    printf("install_errno: %zu rows of the table, and %d address spaces\n", sizeof(rows) / sizeof(rows[0]),
           ROUNDS);
    return 0;
}
