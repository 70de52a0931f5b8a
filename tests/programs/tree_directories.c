/* SPDX-License-Identifier: Apache-2.0
 * Processes that share working directory, root and umask (CLONE_FS): one of them changes them for the others, a grandchild
 * and its thread among them, not for a thread that has left (unshare), nor for a process that has.
 */
#include "shared.h"
#include <pthread.h>
#include <sys/stat.h>

static pthread_barrier_t barrier;
static struct child grandchild;
static char differences[4096];

static int is_here(const char *folder, mode_t mask)
{
    char here[4096] = "";
    mode_t had = umask(mask);
    return getcwd(here, sizeof here) != NULL && strcmp(here, folder) == 0 && had == mask;
}

static int serve(char asked, void *argument)
{
    (void)argument;
    switch (asked) {
    case 's':
        grandchild = shared_fork(CLONE_FS, serve, NULL);
        return 0;
    case 'f':
        CHECK(is_here("/first", 031));
        return 0;
    case 'c':
        CHECK(chdir("/second") == 0 && umask(022) == 031);
        return 0;
    case 't':
        CHECK(is_here("/second", 022) && access("/second", F_OK) == 0 && access(test_workdir, F_OK) != 0);
        return 0;
    case 'u':
        CHECK(unshare(CLONE_FS) == 0 && chdir("second") == 0 && umask(044) == 027);
        return 0;
    case 'a':
        CHECK(is_here(test_path("second"), 044) && access(test_workdir, F_OK) == 0);
        return 0;
    case 'g':
        return tree_ask(&grandchild, 't');
    default:
        CHECK(tree_end(&grandchild) == 0);
        return 0;
    }
}

static void *apart(void *argument)
{
    (void)argument;
    MUST(unshare(CLONE_FS) == 0 && chdir(test_path("third")) == 0);
    umask(066);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    if (!is_here(test_path("third"), 066))
        snprintf(differences, sizeof differences, "the thread is somewhere else");
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    test_init(argc, argv);
    umask(027);
    MUST(chdir(test_workdir) == 0 && pthread_barrier_init(&barrier, NULL, 2) == 0);
    MUST(mkdir("first", 0700) == 0 && mkdir("second", 0700) == 0 && mkdir("third", 0700) == 0);
    struct child child = shared_fork(CLONE_FS, serve, NULL);
    MUST(tree_ask(&child, 's') == 0);
    struct child left = shared_fork(CLONE_FS, serve, NULL);
    MUST(tree_ask(&left, 'u') == 0);
    MUST(pthread_create(&thread, NULL, apart, NULL) == 0);
    pthread_barrier_wait(&barrier);
    MUST(chroot(test_workdir) == 0 && chdir("/first") == 0 && umask(031) == 027);
    const char *outside = test_workdir;
    test_workdir = "/";
    test_wait();
    EXPECT(is_here("/first", 031));
    EXPECT(shared_same(getpid(), child.pid, SHARED_FS) && !shared_same(getpid(), left.pid, SHARED_FS));
    EXPECT(!shared_same(getpid(), child.pid, SHARED_FILES));
    EXPECT_EQ(tree_ask(&child, 'f'), 0);
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT(is_here("/second", 022));
    EXPECT_EQ(tree_ask(&child, 'g'), 0);
    EXPECT_EQ(tree_ask(&left, 'a'), 0);
    test_workdir = outside;
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    EXPECT(differences[0] == '\0');
    EXPECT_EQ(tree_ask(&child, 'e'), 0);
    EXPECT_EQ(tree_end(&child), 0);
    EXPECT_EQ(tree_end(&left), 0);
    test_workdir = "/";
    return test_done();
}
