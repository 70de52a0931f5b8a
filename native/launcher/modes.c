/* SPDX-License-Identifier: Apache-2.0 */
#include "modes.h"

#include <asm/termbits.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct modes) == sizeof(struct termios2), "the kernel's layout");

bool modes_get(int fd, struct modes *modes)
{
    return ioctl(fd, TCGETS2, modes) == 0;
}

/* From the background too: SIGTTOU is blocked (__tty_check_change). */
void modes_set(int fd, const struct modes *modes)
{
    ioctl(fd, TCSETS2, modes);
}

/* cfmakeraw(3). */
struct modes modes_raw(const struct modes *modes)
{
    struct termios2 t;
    struct modes raw;
    memcpy(&t, modes, sizeof(t));
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag &= ~(tcflag_t)OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    memcpy(&raw, &t, sizeof(raw));
    return raw;
}

uint8_t modes_end_of_file(const struct modes *modes)
{
    struct termios2 t;
    memcpy(&t, modes, sizeof(t));
    return t.c_cc[VEOF];
}

bool modes_in_background(int fd)
{
    pid_t group = tcgetpgrp(fd);
    return group >= 0 && group != getpgrp();
}
