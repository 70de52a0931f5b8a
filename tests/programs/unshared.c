/* SPDX-License-Identifier: Apache-2.0 */
/* unshared: threads with a working directory, a root and a umask of their own, in a process that has changed root. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include "test.h"

struct own {
    const char *folder;
    mode_t mask;
    int changes_root;
};

static pthread_barrier_t barrier;

static void expect_here(const char *folder, mode_t mask)
{
    char here[4096] = "";
    EXPECT(getcwd(here, sizeof here) != NULL);
    if (strcmp(here, folder) != 0)
        test_differs("in %s, not in %s", here, folder);
    EXPECT_EQ(umask(mask), mask);
}

static void *apart(void *argument)
{
    const struct own *own = argument;
    char folder[4096];
    MUST(unshare(CLONE_FS) == 0);
    MUST(snprintf(folder, sizeof folder, "%s/%s", test_workdir, own->folder) < (int)sizeof folder);
    MUST(mkdir(folder, 0700) == 0 && chdir(folder) == 0);
    if (own->changes_root)
        MUST(chroot(".") == 0);
    umask(own->mask);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    expect_here(own->changes_root ? "/" : folder, own->mask);
    EXPECT_EQ(access(test_workdir, F_OK) == 0, !own->changes_root);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct own own[] = {{"first", 011, 0}, {"second", 022, 1}};
    pthread_t threads[2];
    test_init(argc, argv);
    MUST(pthread_barrier_init(&barrier, NULL, 3) == 0);
    for (int i = 0; i < 2; i++)
        MUST(pthread_create(&threads[i], NULL, apart, &own[i]) == 0);
    pthread_barrier_wait(&barrier);
    umask(033);
    MUST(chroot(test_workdir) == 0 && chdir("/first") == 0);
    const char *outside = test_workdir;
    test_workdir = "/";
    test_wait();
    expect_here("/first", 033);
    test_workdir = outside;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    test_workdir = "/";
    return test_done();
}
