/* SPDX-License-Identifier: Apache-2.0 */
/* seccomp: threads with filters in common and of their own, which forbid what a restore needs last; one in strict mode. */
#include <pthread.h>
#include "seccomp.h"

enum { MAIN_FILTERS = 5 };
static pthread_barrier_t made, going;
static int to_strict[2], from_strict[2];

static void *with_own(void *unused)
{
    MUST(filter_install(0, SYS_getuid, NO(61)) == 0);
    MUST(filter_install(SECCOMP_FILTER_FLAG_LOG, SYS_getgid, NO(62)) == 0);
    pthread_barrier_wait(&made);
    pthread_barrier_wait(&going);
    EXPECT_EQ(seccomp_count("Seccomp_filters"), 4);
    EXPECT_EQ(errno_of(SYS_getuid), 61);
    EXPECT_EQ(errno_of(SYS_getgid), 62);
    EXPECT_EQ(errno_of(SYS_geteuid), 51);
    EXPECT_EQ(errno_of(SYS_getegid), 0);
    return unused;
}

/* Reads and writes, by calls that nothing but strict mode allows. */
static void *strict(void *unused)
{
    char byte;
    pthread_barrier_wait(&made);
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0);
    while (read(to_strict[0], &byte, 1) == 1)
        byte = write(from_strict[1], "s", 1) == 1 ? 0 : 1;
    syscall(SYS_exit, 0);
    return unused;
}

/* What a restore's last steps are made of; the leader itself uses none of them. */
static void forbid_the_rest(void)
{
    static const int calls[] = {SYS_prctl, SYS_capset, SYS_setresuid, SYS_rt_sigqueueinfo, SYS_setgroups};
    struct sock_filter insns[2 + 2 * sizeof calls / sizeof *calls];
    struct sock_fprog program = {sizeof insns / sizeof *insns, insns};
    size_t n = 0;
    insns[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        insns[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
        insns[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    insns[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

static void answer_of_strict(void)
{
    char byte = 0;
    EXPECT(write(to_strict[1], "?", 1) == 1 && read(from_strict[0], &byte, 1) == 1);
    EXPECT_EQ(byte, 's');
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    test_init(argc, argv);
    MUST(pthread_barrier_init(&made, NULL, 3) == 0 && pthread_barrier_init(&going, NULL, 2) == 0);
    MUST(pipe(to_strict) == 0 && pipe(from_strict) == 0);
    MUST(pthread_create(&threads[0], NULL, strict, NULL) == 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(filter_install(0, SYS_geteuid, NO(51)) == 0);
    MUST(filter_install(0, SYS_getppid, NO(52)) == 0);
    MUST(pthread_create(&threads[1], NULL, with_own, NULL) == 0);
    pthread_barrier_wait(&made);
    answer_of_strict();
    MUST(filter_install(0, SYS_getegid, NO(53)) == 0);
    MUST(filter_install(0, SYS_geteuid, NO(54)) == 0);
    forbid_the_rest();
    test_wait();
    EXPECT_EQ(seccomp_count("Seccomp"), SECCOMP_MODE_FILTER);
    EXPECT_EQ(seccomp_count("Seccomp_filters"), MAIN_FILTERS);
    EXPECT_EQ(errno_of(SYS_geteuid), 54); /* of two that answer alike, the newer one is heard */
    EXPECT_EQ(errno_of(SYS_getppid), 52);
    EXPECT_EQ(errno_of(SYS_getegid), 53);
    EXPECT_EQ(errno_of(SYS_getuid), 0);
    answer_of_strict();
    pthread_barrier_wait(&going);
    pthread_join(threads[1], NULL);
    close(to_strict[1]);
    pthread_join(threads[0], NULL);
    return test_done();
}
