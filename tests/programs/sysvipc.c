/* SPDX-License-Identifier: Apache-2.0
 * System V semaphores and message queues: IDs, keys, owners, values, messages by type; a child waits for a semaphore.
 */
#include "tree.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#define OWNER 12345
#define LIMIT 9000

struct text {
    long type;
    char bytes[3000];
};

static int set, other, queue;

static key_t key(void)
{
    return 0x53000000 | (getpid() & 0xffffff);
}

static int add(int number, int n)
{
    struct sembuf operation = {.sem_num = number, .sem_op = n};
    return semop(set, &operation, 1);
}

static int serve(char asked, void *argument)
{
    (void)asked, (void)argument;
    CHECK(add(0, -1) == 0);
    return 0;
}

static void put(long type, char fill, size_t bytes)
{
    struct text text = {.type = type};
    memset(text.bytes, fill, bytes);
    MUST(msgsnd(queue, &text, bytes, IPC_NOWAIT) == 0);
}

static void expect_message(long type, char fill, ssize_t bytes)
{
    struct text text;
    EXPECT_EQ(msgrcv(queue, &text, sizeof text.bytes, type, IPC_NOWAIT), bytes);
    EXPECT(text.type == type && (bytes == 0 || (text.bytes[0] == fill && text.bytes[bytes - 1] == fill)));
}

static void make(void)
{
    struct semid_ds sems;
    struct msqid_ds messages;
    set = semget(key(), 3, IPC_CREAT | IPC_EXCL | 0640);
    other = semget(IPC_PRIVATE, 200, 0600);
    queue = msgget(key(), IPC_CREAT | IPC_EXCL | 0620);
    MUST(set >= 0 && other >= 0 && queue >= 0);
    MUST(add(1, 5) == 0 && add(2, 32767) == 0 && semctl(other, 150, SETVAL, 77) == 0);
    MUST(semctl(other, 0, IPC_STAT, &sems) == 0);
    sems.sem_perm.uid = sems.sem_perm.gid = OWNER;
    MUST(semctl(other, 0, IPC_SET, &sems) == 0);
    MUST(msgctl(queue, IPC_STAT, &messages) == 0);
    messages.msg_qbytes = LIMIT;
    MUST(msgctl(queue, IPC_SET, &messages) == 0);
    put(3, 'a', 3000);
    put(1, 'b', 10);
    put(3, 'c', 1);
    put(9, 0, 0);
}

/* To be removed, where a test never lets us look at them. */
static void tell_ids(void)
{
    FILE *file = fopen(test_path("ipc"), "w");
    MUST(file && fprintf(file, "sem %d\nsem %d\nmsg %d\n", set, other, queue) > 0 && fclose(file) == 0);
}

static void remove_all(void)
{
    MUST(semctl(set, 0, IPC_RMID) == 0 && semctl(other, 0, IPC_RMID) == 0);
    MUST(msgctl(queue, IPC_RMID, NULL) == 0);
}

static void look(void)
{
    struct semid_ds sems;
    struct msqid_ds messages;
    EXPECT_EQ(semget(key(), 0, 0), set);
    EXPECT_EQ(msgget(key(), 0), queue);
    EXPECT_EQ(semctl(set, 0, GETVAL), 0);
    EXPECT_EQ(semctl(set, 1, GETVAL), 5);
    EXPECT_EQ(semctl(set, 2, GETVAL), 32767);
    EXPECT_EQ(semctl(other, 150, GETVAL), 77);
    EXPECT_EQ(semctl(set, 0, IPC_STAT, &sems), 0);
    EXPECT_EQ(sems.sem_perm.mode, 0640);
    EXPECT_EQ(semctl(other, 0, IPC_STAT, &sems), 0);
    EXPECT(sems.sem_perm.uid == OWNER && sems.sem_perm.cuid == 0 && sems.sem_nsems == 200);
    EXPECT_EQ(msgctl(queue, IPC_STAT, &messages), 0);
    EXPECT_EQ(messages.msg_qbytes, LIMIT);
    EXPECT_EQ(messages.msg_perm.mode, 0620);
    EXPECT_EQ(messages.msg_qnum, 4);
    EXPECT_EQ(messages.__msg_cbytes, 3011);
    expect_message(1, 'b', 10);
    expect_message(3, 'a', 3000);
    expect_message(3, 'c', 1);
    expect_message(9, 0, 0);
}

int main(int argc, char **argv)
{
    struct child child;
    test_init(argc, argv);
    make();
    tell_ids();
    child = tree_fork(serve, NULL);
    MUST(write(child.link, "d", 1) == 1);
    while (semctl(set, 0, GETNCNT) == 0)
        usleep(1000);
    test_wait();
    look();
    EXPECT_EQ(add(0, 1), 0);
    char answer[8];
    EXPECT(read(child.link, answer, sizeof answer) > 0);
    EXPECT_EQ(semctl(set, 0, GETVAL), 0);
    EXPECT_EQ(tree_end(&child), 0);
    remove_all();
    return test_done();
}
