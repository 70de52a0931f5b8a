/* SPDX-License-Identifier: Apache-2.0
 *
 * What a terminal is set to, as the kernel has it: struct termios2 and its size.
 */
#ifndef RESTORER_MODES_H
#define RESTORER_MODES_H
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include "wire.h"

struct modes {
    uint8_t bytes[sizeof(((struct wr_terminal *)0)->modes)];
};

/* False when the fd is no terminal. */
bool modes_get(int fd, struct modes *modes);
void modes_set(int fd, const struct modes *modes);

/* Every byte as it comes, nothing echoed, nothing a signal; output as it is. */
struct modes modes_raw(const struct modes *modes);

/* The key that ends a line without a newline, by default Ctrl-D. */
uint8_t modes_end_of_file(const struct modes *modes);

/* Whether it is the terminal of the launcher's session, and another group has it. */
bool modes_in_background(int fd);

#endif
