/* SPDX-License-Identifier: Apache-2.0
 * Guard regions (MADV_GUARD_INSTALL) beside pages with content: in anonymous memory, in a private and a shared mapping of
 * a file, in shared memory; a page that had content before, and a whole mapping.
 */
#include "memory.h"
#include <setjmp.h>
#include <signal.h>

enum { INSTALL = 102, REMOVE = 103, PAGES = 48, KINDS = 5 };

static sigjmp_buf back;
static int supported;

static void on_fault(int number)
{
    (void)number;
    siglongjmp(back, 1);
}

static int faults(volatile char *page)
{
    if (sigsetjmp(back, 1) != 0)
        return 1;
    (void)page[17];
    return 0;
}

static int is_guarded(int page)
{
    return page % 5 == 2 || (page >= 30 && page < 33);
}

static char *map(int kind, int fd)
{
    static const int flags[KINDS] = {MAP_PRIVATE | MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED,
                                     MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS};
    int file = kind == 1 || kind == 2 ? fd : -1;
    char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags[kind], file, 0);
    MUST(memory != MAP_FAILED);
    return memory;
}

int main(int argc, char **argv)
{
    char *memory[KINDS];
    test_init(argc, argv);
    struct sigaction action = {.sa_handler = on_fault};
    MUST(sigaction(SIGSEGV, &action, NULL) == 0);
    int fd = open(test_path("file"), O_RDWR | O_CREAT, 0600);
    MUST(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
    for (int kind = 0; kind < KINDS; kind++) {
        memory[kind] = map(kind, fd);
        memory_fill(memory[kind], PAGES, (uint64_t)kind + 1);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        int done = madvise(memory[kind] + 2 * PAGE, PAGE, INSTALL) == 0;
        supported |= done << kind;
        for (int page = 0; done && page < PAGES; page++)
            if (is_guarded(page) || kind == KINDS - 1)
                MUST(madvise(memory[kind] + page * PAGE, PAGE, INSTALL) == 0);
    }
    test_wait();
    for (int kind = 0; kind < KINDS; kind++)
        for (int page = 0; page < PAGES; page++) {
            char *at = memory[kind] + page * PAGE;
            if (!(supported >> kind & 1) || !(is_guarded(page) || kind == KINDS - 1)) {
                EXPECT(memory_wrong_from(at, (size_t)page, 1, (uint64_t)kind + 1) == 0);
                continue;
            }
            EXPECT(faults(at));
        }
    /* Guards can be taken away; anonymous memory is of zeros there, a file shows what it holds. */
    if (supported & 1) {
        EXPECT(madvise(memory[0], PAGES * PAGE, REMOVE) == 0);
        EXPECT(!faults(memory[0] + 2 * PAGE) && memory[0][2 * PAGE + 17] == 0);
        EXPECT(memory_wrong_from(memory[0] + PAGE, 1, 1, 1) == 0);
    }
    if (supported & 4) {
        EXPECT(madvise(memory[2] + 2 * PAGE, PAGE, REMOVE) == 0);
        EXPECT(memory_wrong_from(memory[2] + 2 * PAGE, 2, 1, 3) == 0);
    }
    return test_done();
}
