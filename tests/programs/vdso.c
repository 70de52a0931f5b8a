/* SPDX-License-Identifier: Apache-2.0
 * The vDSO is where it was, and its clock agrees with the kernel's. */
#include "memory.h"
#include <sys/auxv.h>
#include <sys/time.h>

static int64_t now(long (*clock)(long, ...), clockid_t id)
{
    struct timespec time;
    if (clock)
        MUST(clock(SYS_clock_gettime, id, &time) == 0);
    else
        MUST(clock_gettime(id, &time) == 0);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME,
                                       CLOCK_MONOTONIC_COARSE};
    test_init(argc, argv);
    const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
    MUST(vdso != NULL && memcmp(vdso, "\177ELF", 4) == 0);
    int64_t before = now(NULL, CLOCK_MONOTONIC);
    test_wait();
    EXPECT((const char *)getauxval(AT_SYSINFO_EHDR) == vdso);
    EXPECT(strcmp(memory_perms(vdso), "r-xp") == 0);
    EXPECT(memcmp(vdso, "\177ELF", 4) == 0);
    EXPECT(now(NULL, CLOCK_MONOTONIC) > before);
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        int64_t first = now(syscall, clocks[i]), middle = now(NULL, clocks[i]),
                last = now(syscall, clocks[i]);
        if (middle < first || middle > last)
            test_differs("clock %d: vDSO says %lld, kernel %lld to %lld", (int)clocks[i], (long long)middle,
                         (long long)first, (long long)last);
    }
    struct timeval tv;
    EXPECT(gettimeofday(&tv, NULL) == 0 && llabs(tv.tv_sec - time(NULL)) <= 1);
    return test_done();
}
