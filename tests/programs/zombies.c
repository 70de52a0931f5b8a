/* SPDX-License-Identifier: Apache-2.0
 * Children that have ended can still be waited for: how they ended, who they were; no SIGCHLD comes a second time.
 */
#include "tree.h"

static volatile sig_atomic_t told;

static void on_child(int number)
{
    (void)number;
    told++;
}

static pid_t fork_to_end(int code, int signal, uid_t uid)
{
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        if (uid != 0 && setresuid(uid, uid, uid) != 0)
            _exit(99);
        if (signal != 0)
            raise(signal);
        _exit(code);
    }
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return pid;
}

static siginfo_t wait_for(pid_t pid)
{
    siginfo_t info = {0};
    EXPECT_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
    EXPECT_EQ(info.si_pid, pid);
    return info;
}

int main(int argc, char **argv)
{
    test_init(argc, argv);
    struct sigaction action = {.sa_handler = on_child};
    MUST(sigaction(SIGCHLD, &action, NULL) == 0);
    pid_t exited = fork_to_end(7, 0, 0), killed = fork_to_end(0, SIGTERM, 0), other = fork_to_end(0, 0, 1234);
    pid_t leader = fork();
    MUST(leader >= 0);
    if (leader == 0) {
        setsid();
        _exit(3);
    }
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)leader, &info, WEXITED | WNOWAIT) == 0);
    MUST(told > 0);
    told = 0;
    test_wait();
    EXPECT_EQ(told, 0);
    info = wait_for(exited);
    EXPECT_EQ(info.si_code, CLD_EXITED);
    EXPECT_EQ(info.si_status, 7);
    info = wait_for(killed);
    EXPECT_EQ(info.si_code, CLD_KILLED);
    EXPECT_EQ(info.si_status, SIGTERM);
    info = wait_for(other);
    EXPECT_EQ(info.si_uid, 1234);
    EXPECT_EQ(getsid(leader), leader);
    EXPECT_EQ(wait_for(leader).si_status, 3);
    EXPECT(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
    MUST(fork_to_end(0, 0, 0) > 0);
    EXPECT_EQ(told, 1);
    return test_done();
}
