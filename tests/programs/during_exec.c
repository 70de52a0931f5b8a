/* SPDX-License-Identifier: Apache-2.0
 * Executes itself anew while most of its memory is missing: the new program runs, with nothing of the old one. */
#include "memory.h"

#define PAGES 8192

int main(int argc, char **argv)
{
    if (argc == 3) {
        test_init(argc - 1, argv);
        EXPECT(strcmp(memory_perms((void *)strtoul(argv[2], NULL, 16)), "") == 0);
        return test_done();
    }
    test_init(argc, argv);
    /* An address that no address-space layout of a fresh process uses. */
    char *area = mmap((void *)0x100000000000, PAGES * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
         text[32];
    MUST(area == (void *)0x100000000000);
    memory_fill(area, PAGES, 1);
    snprintf(text, sizeof text, "%lx", (unsigned long)area);
    test_wait();
    EXPECT_EQ(memory_wrong_from(area + 50 * PAGE, 50, 20, 1), 0);
    execv("/proc/self/exe", (char *[]){argv[0], argv[1], text, NULL});
    MUST(!"execv");
}
