/* SPDX-License-Identifier: Apache-2.0
 * System V shared memory: IDs, keys, owners and contents; attached by parent and child, read-only too; one that goes
 * with the last who detaches it, and one that can be found by its key.
 */
#include "memory.h"
#include "tree.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define PAGES 40
#define OWNER 12345

static int found, gone, odd;
static char *shared, *shown, *doomed;

static int serve(char asked, void *argument)
{
    (void)argument;
    if (asked == 'w') {
        shared[7 * PAGE] = 'c';
        return 0;
    }
    CHECK(memory_wrong(doomed, PAGES, 2) == 0 && shared[8 * PAGE] == 'p' && shown[8 * PAGE] == 'p');
    return 0;
}

static key_t key(void)
{
    return 0x52000000 | (getpid() & 0xffffff);
}

/* To be removed, where a test never lets us look at them. */
static void tell_ids(void)
{
    FILE *file = fopen(test_path("ipc"), "w");
    MUST(file && fprintf(file, "shm %d\nshm %d\n", found, odd) > 0 && fclose(file) == 0);
}

static unsigned long attached(int id)
{
    struct shmid_ds status;
    EXPECT_EQ(shmctl(id, IPC_STAT, &status), 0);
    return status.shm_nattch;
}

int main(int argc, char **argv)
{
    struct shmid_ds status;
    struct child child;
    test_init(argc, argv);
    found = shmget(key(), PAGES * PAGE - 100, IPC_CREAT | IPC_EXCL | 0640);
    gone = shmget(IPC_PRIVATE, PAGES * PAGE, 0600);
    odd = shmget(IPC_PRIVATE, 56, 0600);
    MUST(found >= 0 && gone >= 0 && odd >= 0);
    shared = shmat(found, NULL, 0);
    shown = shmat(found, NULL, SHM_RDONLY);
    doomed = shmat(gone, NULL, 0);
    char *small = shmat(odd, NULL, 0);
    MUST(shared != (void *)-1 && shown != (void *)-1 && doomed != (void *)-1 && small != (void *)-1);
    MUST(shmctl(gone, IPC_RMID, NULL) == 0);
    MUST(shmctl(odd, IPC_STAT, &status) == 0);
    status.shm_perm.uid = status.shm_perm.gid = OWNER;
    status.shm_perm.mode = 0604;
    MUST(shmctl(odd, IPC_SET, &status) == 0);
    memory_fill(shared, PAGES - 1, 1);
    memory_fill(doomed, PAGES, 2);
    strcpy(small, "small");
    tell_ids();
    child = tree_fork(serve, NULL);
    test_wait();
    /* First of all: whatever fails below, nothing is left. */
    EXPECT_EQ(shmget(key(), 0, 0), found);
    EXPECT_EQ(shmctl(found, IPC_STAT, &status), 0);
    EXPECT_EQ(status.shm_segsz, PAGES * PAGE - 100);
    EXPECT_EQ(status.shm_perm.mode, 0640);
    EXPECT_EQ(status.shm_perm.__key, key());
    EXPECT_EQ(shmctl(odd, IPC_STAT, &status), 0);
    EXPECT(status.shm_perm.uid == OWNER && status.shm_perm.gid == OWNER && status.shm_perm.cuid == geteuid());
    EXPECT_EQ(status.shm_perm.mode, 0604);
    EXPECT_EQ(attached(found), 4);
    EXPECT_EQ(attached(gone), 2);
    EXPECT_EQ(attached(odd), 2);
    EXPECT_EQ(shmctl(found, IPC_RMID, NULL), 0);
    EXPECT_EQ(shmctl(odd, IPC_RMID, NULL), 0);
    EXPECT_EQ(memory_wrong(shared, PAGES - 1, 1), 0);
    EXPECT_EQ(memory_wrong(shown, PAGES - 1, 1), 0);
    EXPECT_EQ(memory_wrong(doomed, PAGES, 2), 0);
    EXPECT(strcmp(small, "small") == 0 && small[100] == 0);
    EXPECT(mprotect(shown, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
    shared[8 * PAGE] = 'p';
    EXPECT_EQ(tree_ask(&child, 'c'), 0);
    EXPECT_EQ(tree_ask(&child, 'w'), 0);
    EXPECT(shared[7 * PAGE] == 'c' && shown[7 * PAGE] == 'c');
    EXPECT_EQ(tree_end(&child), 0);
    EXPECT_EQ(shmdt(doomed), 0);
    /* While memory is missing a child's pager, which has its address space too, ends a moment after it. */
    while (shmctl(gone, IPC_STAT, &status) == 0)
        usleep(1000);
    /* EIDRM where somebody else's segment has its place by now (ipc_checkid in ipc/util.h). */
    EXPECT(errno == EINVAL || errno == EIDRM);
    return test_done();
}
