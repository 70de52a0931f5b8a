/* SPDX-License-Identifier: Apache-2.0 */
#include "host.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proc.h"
#include "say.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* include/uapi/linux/userfaultfd.h: MOVE and POISON are newer than the headers of Debian 12. */
#define FEATURE_EVENT_FORK    (UINT64_C(1) << 1)
#define FEATURE_EVENT_REMAP   (UINT64_C(1) << 2)
#define FEATURE_EVENT_REMOVE  (UINT64_C(1) << 3)
#define FEATURE_EVENT_UNMAP   (UINT64_C(1) << 6)
#define FEATURE_THREAD_ID     (UINT64_C(1) << 8)
#define FEATURE_EXACT_ADDRESS (UINT64_C(1) << 11)
#define FEATURE_POISON        (UINT64_C(1) << 14)
#define FEATURE_MOVE          (UINT64_C(1) << 16)

struct feature {
    uint64_t bit;
    const char *name;
};

static const struct feature required[] = {
    {FEATURE_EVENT_FORK, "UFFD_FEATURE_EVENT_FORK"},
    {FEATURE_EVENT_REMAP, "UFFD_FEATURE_EVENT_REMAP"},
    {FEATURE_EVENT_REMOVE, "UFFD_FEATURE_EVENT_REMOVE"},
    {FEATURE_EVENT_UNMAP, "UFFD_FEATURE_EVENT_UNMAP"},
};

static const uint64_t wanted = FEATURE_EVENT_FORK | FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE |
                               FEATURE_EVENT_UNMAP | FEATURE_THREAD_ID | FEATURE_EXACT_ADDRESS |
                               FEATURE_POISON | FEATURE_MOVE;

enum { CPUID_OSXSAVE = 1 << 27, CPUID_XSTATE = 0x0d };

static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

void host_check_cpu(const struct image *image)
{
    const struct wr_header *header = image_header(image);
    uint32_t eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & CPUID_OSXSAVE) == 0)
        die("this CPU or kernel has no XSAVE, which every image needs: restore it on another machine");
    uint64_t missing = header->xfeatures & ~xcr0();
    if (missing != 0)
        die("this CPU lacks register state that the image uses (XCR0 bits 0x%llx): restore it on a CPU that "
            "has "
            "the features of the one it was checkpointed on",
            (unsigned long long)missing);
    if (__get_cpuid_count(CPUID_XSTATE, 0, &eax, &ebx, &ecx, &edx) == 0 || ebx < header->xstate_bytes)
        die("this CPU's XSAVE area has %u bytes and the image needs %u: restore it on a CPU that has the "
            "features "
            "of the one it was checkpointed on",
            ebx, header->xstate_bytes);
}

int host_high_fd(int fd, int fd_base, const char *what)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, fd_base);
    if (high < 0 && (errno == EINVAL || errno == EMFILE))
        die("%s needs a file descriptor above %d, which the limit of open files forbids: raise it (ulimit "
            "-n)",
            what, fd_base);
    if (high < 0)
        die("cannot duplicate %s: %s", what, strerror(errno));
    return high;
}

static uint64_t probe(int uffd)
{
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(uffd, UFFDIO_API, &api) != 0)
        die("the kernel's userfaultfd does not answer: %s", strerror(errno));
    close(uffd);
    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++)
        if ((api.features & required[i].bit) == 0)
            die("the kernel's userfaultfd has no %s: Linux 4.11 or later is needed", required[i].name);
    return api.features & wanted;
}

static void offer(const struct region *region, uint64_t nr, uint64_t a, uint64_t b, uint64_t c)
{
    region->slots[WR_SLOT_UFFD_NR] = nr;
    region->slots[WR_SLOT_UFFD_ARG0] = a;
    region->slots[WR_SLOT_UFFD_ARG1] = b;
    region->slots[WR_SLOT_UFFD_ARG2] = c;
}

/* The device first: the default seccomp profiles of Docker and Podman block the syscall and allow the
 * device. */
void host_offer_userfaultfd(const struct region *region, int fd_base)
{
    uint64_t flags = O_CLOEXEC | O_NONBLOCK;
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int uffd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, flags) : -1;
    if (uffd >= 0) {
        int high = host_high_fd(device, fd_base, "/dev/userfaultfd");
        offer(region, SYS_ioctl, (uint64_t)high, USERFAULTFD_IOC_NEW, flags);
    } else {
        uffd = (int)syscall(SYS_userfaultfd, flags);
        offer(region, SYS_userfaultfd, flags, 0, 0);
    }
    if (device >= 0)
        close(device);
    if (uffd < 0 && errno == ENOSYS)
        die("the kernel has no userfaultfd (CONFIG_USERFAULTFD): it is needed to restore");
    if (uffd < 0)
        die("userfaultfd is not allowed here: %s; run as root, or give access to /dev/userfaultfd",
            strerror(errno));
    region->slots[WR_SLOT_UFFD_FEATURES] = probe(uffd);
}

static void note_mapping(const struct region *region, const char *name, uint64_t start, uint64_t end)
{
    static const struct {
        const char *name;
        int slot;
    } mappings[] = {
        {"[vvar]", WR_SLOT_VVAR},
        {"[vvar_vclock]", WR_SLOT_VVAR_VCLOCK},
        {"[vdso]", WR_SLOT_VDSO},
    };
    for (size_t i = 0; i < sizeof(mappings) / sizeof(mappings[0]); i++) {
        if (strcmp(name, mappings[i].name) != 0)
            continue;
        region->slots[mappings[i].slot] = start;
        region->slots[mappings[i].slot + 1] = end - start;
    }
}

void host_offer_vdso(const struct region *region)
{
    char line[512], name[256];
    unsigned long long start, end;
    FILE *maps = proc_stream(getpid(), "maps");
    if (maps == NULL)
        die("cannot read the maps of the launcher: %s; mount /proc", strerror(errno));
    while (fgets(line, sizeof(line), maps) != NULL)
        if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %255s", &start, &end, name) == 3)
            note_mapping(region, name, start, end);
    fclose(maps);
    if (region->slots[WR_SLOT_VDSO] == 0 || region->slots[WR_SLOT_VVAR] == 0)
        die("this process has no vDSO: boot without vdso=0");
}
