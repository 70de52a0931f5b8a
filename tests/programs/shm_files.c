/* SPDX-License-Identifier: Apache-2.0
 * shm_files: memory with a name, of shm_open(3) and sem_open(3): what is in it is that of the checkpoint, whatever went on in
 * the file since; shared with a child, seen by read(2) and by a mapping for reading.
 */
#include "test.h"
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { WORDS = 1 << 17, PAGE = 4096, BYTES = WORDS * 8 + 100, SEMAPHORE = 1000000000 };

static char shm_path[64], sem_path[64];

static sem_t *semaphore(void)
{
    char draft[80];
    snprintf(draft, sizeof draft, "%s.draft", sem_path);
    int fd = open(draft, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(fd >= 0 && ftruncate(fd, sizeof(sem_t)) == 0);
    sem_t *one = mmap(NULL, sizeof *one, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(one != MAP_FAILED && close(fd) == 0 && sem_init(one, 1, 2) == 0);
    MUST(link(draft, sem_path) == 0 && unlink(draft) == 0);
    return one;
}

static int count_wrong(const uint64_t *words, uint64_t seed)
{
    int wrong = 0;
    for (uint64_t i = 0; i < WORDS; i++)
        wrong += words[i] != (i / (PAGE / 8) % 3 ? i * seed : 0);
    return wrong;
}

static void fill(uint64_t *words, uint64_t seed)
{
    for (uint64_t i = 0; i < WORDS; i++)
        words[i] = i / (PAGE / 8) % 3 ? i * seed : 0;
}

int main(int argc, char **argv)
{
    struct stat now;
    uint64_t word = 0;
    int status, value = 0;
    test_init(argc, argv);
    snprintf(shm_path, sizeof shm_path, "/dev/shm/restorer-test-%d", getpid());
    snprintf(sem_path, sizeof sem_path, "/dev/shm/restorer-test-%d", getpid() + SEMAPHORE);
    FILE *list = fopen(test_path("ipc"), "w");
    MUST(list && fprintf(list, "file %d\nfile %d\n", getpid(), getpid() + SEMAPHORE) > 0 &&
         fclose(list) == 0);
    int fd = open(shm_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    MUST(fd >= 0 && ftruncate(fd, BYTES) == 0 && fchown(fd, 4711, 4712) == 0);
    uint64_t *words = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int reading = open(shm_path, O_RDONLY | O_CLOEXEC);
    const uint64_t *seen = mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, reading, PAGE);
    sem_t *one = semaphore();
    MUST(words != MAP_FAILED && reading >= 0 && seen != MAP_FAILED);
    fill(words, 17);
    pid_t child = fork();
    if (child == 0) {
        while (sem_wait(one) == 0 && !words[WORDS]) {
            sem_post(one);
            usleep(1000);
        }
        _exit(count_wrong(words, 19) ? 1 : 7);
    }
    MUST(child > 0);
    test_wait();
    EXPECT_EQ(count_wrong(words, 17), 0);
    EXPECT(seen[5] == words[PAGE / 8 + 5] && pread(reading, &word, 8, PAGE * 2 + 8) == 8 &&
           word == words[PAGE / 4 + 1]);
    EXPECT(mprotect((void *)seen, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
    EXPECT(stat(shm_path, &now) == 0 && now.st_size == BYTES && (now.st_mode & 07777) == 0640);
    EXPECT(now.st_uid == 4711 && now.st_gid == 4712);
    fill(words, 19);
    words[WORDS] = 1;
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    EXPECT(sem_getvalue(one, &value) == 0);
    EXPECT_EQ(value, 1);
    fill(words, 23); /* for who is restored after us */
    EXPECT(unlink(shm_path) == 0 && unlink(sem_path) == 0);
    return test_done();
}
