/* SPDX-License-Identifier: Apache-2.0 */
#include "awake.h"

#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include "say.h"

#define AWAKE_NS UINT64_C(5000000000)

static int fd = -1;
static uint64_t until_ns;

/* Documentation/power/pm_qos_interface.rst: the latency in microseconds, as a native 32-bit number, holds while the file is
 * open. */
void awake_begin(void)
{
    static const int32_t none_us = 0;
    fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, &none_us, sizeof(none_us)) != sizeof(none_us))
        awake_end();
    until_ns = now_ns() + AWAKE_NS;
}

int awake_wait_ms(void)
{
    uint64_t now = now_ns();
    if (fd < 0)
        return -1;
    return now >= until_ns ? 0 : (int)((until_ns - now) / 1000000) + 1;
}

void awake_end(void)
{
    if (fd >= 0)
        close(fd);
    fd = -1;
}
