/* SPDX-License-Identifier: Apache-2.0
 * System V shared memory of huge pages, of a size that is no multiple of them. */
#include "hugetlb.h"
#include <sys/ipc.h>
#include <sys/shm.h>

int main(int argc, char **argv)
{
    struct shmid_ds status;
    test_init(argc, argv);
    int id = shmget(IPC_PRIVATE, 2 * HUGE_PAGE + 100, IPC_CREAT | 0600 | SHM_HUGETLB | HUGE_2M_FLAG);
    MUST(id >= 0);
    char *addr = shmat(id, NULL, 0), *shown = shmat(id, NULL, SHM_RDONLY);
    MUST(addr != (void *)-1 && shown != (void *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
    memory_fill(addr + HUGE_PAGE, HUGE_PAGES, 1);
    test_wait();
    EXPECT_EQ(memory_wrong(shown + HUGE_PAGE, HUGE_PAGES, 1), 0);
    EXPECT_EQ(hugetlb_wrong_zeros(shown, HUGE_PAGE), 0);
    memory_fill(addr + 2 * HUGE_PAGE, HUGE_PAGES, 2);
    EXPECT_EQ(memory_wrong(shown + 2 * HUGE_PAGE, HUGE_PAGES, 2), 0);
    EXPECT(shmctl(id, IPC_STAT, &status) == 0 && status.shm_segsz == 2 * HUGE_PAGE + 100);
    EXPECT_EQ(hugetlb_page_kib(addr), 2048);
    return test_done();
}
