/* SPDX-License-Identifier: Apache-2.0
 * Sessions and process groups: a child that stayed in the session its parent has left, one with a session of its own, and
 * two whose group has outlived its leader.
 */
#include "tree.h"
#include <sys/mman.h>

struct place {
    pid_t group, session;
};

static struct place *places; /* shared, by number of the child */
static struct child inner;

static int is_at(const struct place *place)
{
    CHECK(getpgid(0) == place->group);
    CHECK(getsid(0) == place->session);
    return 0;
}

static int stay(char asked, void *argument)
{
    struct place *place = argument;
    if (asked == 'p')
        *place = (struct place){getpgid(0), getsid(0)};
    return is_at(place);
}

static int lead(char asked, void *argument)
{
    if (asked == 'p')
        CHECK(setsid() == getpid());
    return stay(asked, argument);
}

/* Forks first, then leaves the session that it and its child were in. */
static int leave(char asked, void *argument)
{
    struct place *place = argument;
    if (asked == 'p') {
        inner = tree_fork(stay, place + 1);
        CHECK(tree_ask(&inner, 'p') == 0);
        CHECK(setsid() == getpid());
        *place = (struct place){getpgid(0), getsid(0)};
    }
    if (asked == 'e')
        return tree_end(&inner);
    CHECK(tree_ask(&inner, 'c') == 0);
    CHECK(place[0].session != place[1].session);
    return is_at(place);
}

static int end(char asked, void *argument)
{
    (void)argument;
    return asked;
}

int main(int argc, char **argv)
{
    enum { STAYS, LEADS, LEAVES, INNER, ORPHANED, ORPHANED_TOO, LEADING, JOINED, COUNT };
    struct child children[COUNT];
    test_init(argc, argv);
    places = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(places != MAP_FAILED);
    for (int i = 0; i < COUNT; i++)
        if (i != INNER)
            children[i] = tree_fork(i == LEADS ? lead : i == LEAVES ? leave : stay, &places[i]);
    struct child leader = tree_fork(end, NULL);
    MUST(setpgid(leader.pid, leader.pid) == 0);
    MUST(setpgid(children[ORPHANED].pid, leader.pid) == 0);
    MUST(setpgid(children[ORPHANED_TOO].pid, leader.pid) == 0);
    MUST(tree_end(&leader) == 0);
    MUST(setpgid(children[LEADING].pid, 0) == 0);
    MUST(setpgid(children[JOINED].pid, children[LEADING].pid) == 0);
    for (int i = 0; i < COUNT; i++)
        if (i != INNER)
            MUST(tree_ask(&children[i], 'p') == 0);
    MUST(places[ORPHANED].group == leader.pid && places[JOINED].group == children[LEADING].pid);
    pid_t group = getpgid(0), session = getsid(0);
    test_wait();
    EXPECT_EQ(getpgid(0), group);
    EXPECT_EQ(getsid(0), session);
    for (int i = 0; i < COUNT; i++)
        if (i != INNER)
            EXPECT_EQ(tree_ask(&children[i], 'c'), 0);
    EXPECT(kill(-leader.pid, 0) == 0);
    EXPECT_EQ(tree_ask(&children[LEAVES], 'e'), 0);
    for (int i = 0; i < COUNT; i++)
        if (i != INNER)
            EXPECT_EQ(tree_end(&children[i]), 0);
    EXPECT(kill(-leader.pid, 0) == -1 && errno == ESRCH);
    return test_done();
}
