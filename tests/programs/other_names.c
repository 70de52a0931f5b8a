/* SPDX-License-Identifier: Apache-2.0
 * other_names: files that have lost the name under which they were made, and kept another one: semaphores as sem_open(3)
 * makes them, shared with a child; an open file; a socket that listens, as supervisord's does.
 */
#include "test.h"
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static void rename_by_link(const char *from, const char *to)
{
    char first[4096];
    snprintf(first, sizeof first, "%s", test_path(from));
    MUST(link(first, test_path(to)) == 0 && unlink(first) == 0);
}

static int open_shared(void)
{
    return open(test_path("semaphores"), O_RDWR | O_CLOEXEC);
}

static sem_t *semaphores(void)
{
    int fd = open(test_path("sem.draft"), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(fd >= 0 && ftruncate(fd, 2 * sizeof(sem_t)) == 0);
    sem_t *both = mmap(NULL, 2 * sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(both != MAP_FAILED && close(fd) == 0);
    MUST(sem_init(both, 1, 0) == 0 && sem_init(both + 1, 1, 3) == 0);
    rename_by_link("sem.draft", "semaphores");
    return both;
}

static int listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    const char *path = test_path("socket.draft");
    MUST(snprintf(address.sun_path, sizeof address.sun_path, "%s", path) < (int)sizeof address.sun_path);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 4) == 0);
    rename_by_link("socket.draft", "socket");
    return fd;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat open_file, named;
    char word[8] = "";
    int status, value = -1;
    test_init(argc, argv);
    sem_t *both = semaphores();
    pid_t child = fork();
    if (child == 0) {
        while (sem_wait(both) != 0 && errno == EINTR)
            ;
        _exit(sem_post(both + 1) == 0 ? 7 : 1);
    }
    int file = open(test_path("draft"), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    MUST(child > 0 && file >= 0 && write(file, "before", 6) == 6);
    rename_by_link("draft", "file");
    int socket_fd = listener();
    test_wait();
    EXPECT(sem_getvalue(both + 1, &value) == 0);
    EXPECT_EQ(value, 3);
    EXPECT(sem_post(both) == 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
    EXPECT(sem_getvalue(both + 1, &value) == 0);
    EXPECT_EQ(value, 4);
    /* Whoever opens it by its name sees the same semaphores. */
    sem_t *again = mmap(NULL, 2 * sizeof *again, PROT_READ | PROT_WRITE, MAP_SHARED, open_shared(), 0);
    MUST(again != MAP_FAILED);
    EXPECT(sem_trywait(again + 1) == 0 && sem_getvalue(both + 1, &value) == 0);
    EXPECT_EQ(value, 3);
    EXPECT(fstat(file, &open_file) == 0 && stat(test_path("file"), &named) == 0);
    EXPECT(open_file.st_ino == named.st_ino && pread(file, word, 6, 0) == 6 && strcmp(word, "before") == 0);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", test_path("socket"));
    EXPECT(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    EXPECT(accept4(socket_fd, NULL, NULL, SOCK_NONBLOCK) >= 0);
    EXPECT(access(test_path("draft"), F_OK) < 0 && access(test_path("socket.draft"), F_OK) < 0);
    return test_done();
}
