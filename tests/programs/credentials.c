/* SPDX-License-Identifier: Apache-2.0 */
/* credentials: ids, groups, capabilities, securebits; of each thread its own. */
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include "status.h"

enum { LINES = 9 };
static const char *const keys[LINES] = {"Uid",    "Gid",    "Groups", "CapInh",    "CapPrm",
                                        "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"};
static pthread_barrier_t barrier;

struct view {
    char lines[LINES][4096];
    int securebits;
};

static void take(struct view *view)
{
    memset(view, 0, sizeof *view);
    for (int i = 0; i < LINES; i++)
        status_line(keys[i], view->lines[i], sizeof view->lines[i]);
    view->securebits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
}

static void compare(const struct view *before, const char *who)
{
    static __thread struct view now;
    take(&now);
    for (int i = 0; i < LINES; i++)
        if (strcmp(before->lines[i], now.lines[i]))
            test_differs("%s: %s is not %s", who, now.lines[i], before->lines[i]);
    EXPECT_EQ(now.securebits, before->securebits);
}

static void capset_raw(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {effective >> 32, permitted >> 32, inheritable >> 32},
    };
    MUST(syscall(SYS_capset, &header, data) == 0);
}

/* Raw syscalls: glibc's would change all threads. */
static void become(const uint32_t *groups, int count, uint32_t gid, uint32_t uid)
{
    MUST(syscall(SYS_setgroups, count, groups) == 0);
    MUST(syscall(SYS_setresgid, gid, gid + 1, gid + 2) == 0);
    MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
    MUST(syscall(SYS_setresuid, uid, uid + 1, uid + 2) == 0);
    MUST(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0);
}

/* As a container's runtime leaves a service: no root, one ambient capability. */
static void *service(void *unused)
{
    static struct view view;
    const uint32_t groups[] = {4, 20, 70000};
    const uint64_t bind = 1 << CAP_NET_BIND_SERVICE, read_search = 1 << CAP_DAC_READ_SEARCH;
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0) == 0);
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYSLOG, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_SECUREBITS, 1 << 0 | 1 << 1, 0, 0, 0) == 0);
    become(groups, 3, 3000, 2000);
    capset_raw(bind | read_search, bind | read_search, bind);
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    take(&view);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* main saw go: these may not look into the folder */
    compare(&view, "service");
    return unused;
}

/* As a file server serves one user: root with another's filesystem ids. */
static void *server(void *unused)
{
    static struct view view;
    MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0); /* one of the securebits */
    setfsgid(1001);
    setfsuid(1000);
    take(&view);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* main saw go: these may not look into the folder */
    compare(&view, "server");
    return unused;
}

int main(int argc, char **argv)
{
    static struct view view;
    pthread_t threads[2];
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 3) == 0);
    MUST(pthread_create(&threads[0], NULL, service, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, server, NULL) == 0);
    pthread_barrier_wait(&barrier);
    take(&view);
    test_wait();
    pthread_barrier_wait(&barrier);
    compare(&view, "main");
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    return test_done();
}
