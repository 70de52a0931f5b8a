/* SPDX-License-Identifier: Apache-2.0
 * 32 MB whose every word is known: reads all of it after `go`. For tests that take its pages away. */
#include "memory.h"

#define PAGES 8192

int main(int argc, char **argv)
{
    test_init(argc, argv);
    char *area = memory_map(PAGES, 0);
    memory_fill(area, PAGES, 1);
    test_wait();
    for (size_t i = 0; i < PAGES; i++)
        if (memory_wrong_from(area + i * PAGE, i, 1, 1))
            test_differs("page %zu of the area is wrong", i);
    return test_done();
}
