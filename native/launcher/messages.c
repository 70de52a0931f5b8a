/* SPDX-License-Identifier: Apache-2.0 */
#include "messages.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "calls.h"
#include "channel.h"
#include "failure.h"
#include "guard.h"
#include "page_index.h"
#include "proc.h"
#include "recording.h"
#include "release.h"
#include "report.h"
#include "say.h"
#include "suspend.h"
#include "wipes.h"

static const char *lost_word(uint64_t what)
{
    switch (what) {
    case WR_LOST_UFFD_READ:
        return "reading the userfaultfd";
    case WR_LOST_INSTALL:
        return "putting pages in place";
    case WR_LOST_POOL:
        return "keeping track of forked address spaces";
    case WR_LOST_DATA_READ:
        return "reading data.mdb";
    case WR_LOST_ADVICE:
        return "shared memory was discarded while it was missing, and whether it was removed cannot be told: "
               "restore with --fill before";
    case WR_LOST_VIEW:
        return "a fault where no memory is known to be";
    case WR_LOST_ORDER:
        return "telling the order in which threads moved memory";
    case WR_LOST_WIPES:
        return "telling what of a forked child's memory is wiped";
    default:
        return "paging";
    }
}

static struct place chunk_place(const struct launch *launch, const struct member *member, uint64_t where)
{
    return page_index_place(&launch->store, image_process(&launch->image, member->index),
                            member->region.records, where);
}

static void on_poisoned(const struct launch *launch, const struct member *member,
                        const struct wr_message *message)
{
    struct place place = chunk_place(launch, member, message->b);
    warn("chunk %llu+%u of the store is damaged: %llu pages at 0x%llx of process %d poisoned; it gets SIGBUS "
         "there",
         (unsigned long long)place.pack, place.offset, (unsigned long long)message->c,
         (unsigned long long)message->a, member->pid);
}

static void on_eager_bad(const struct launch *launch, const struct member *member,
                         const struct wr_message *message)
{
    struct place place = chunk_place(launch, member, message->b);
    die("chunk %llu+%u of the store is damaged: %llu pages at 0x%llx must be there before the program runs, "
        "so it is not restored; see 'restorer verify'",
        (unsigned long long)place.pack, place.offset, (unsigned long long)message->c,
        (unsigned long long)message->a);
}

static void on_shared_bad(const struct launch *launch, const struct wr_message *message)
{
    struct place place = chunk_place(launch, tree_root(&launch->tree), message->b);
    die("chunk %llu+%u of the store is damaged: %llu pages of shared memory are lost, and the program has "
        "been killed; see 'restorer verify'",
        (unsigned long long)place.pack, place.offset, (unsigned long long)message->c);
}

/* Without the launcher's duplicate a child could outlive the pager with memory missing: it may not run on. */
static void on_child(struct launch *launch, struct member *member, uint64_t number, int fd)
{
    if (!userfaults_hold(&member->userfaults, number, fd))
        die("more than %d processes were forked while memory was missing: the program has been killed; "
            "restore with "
            "--fill before",
            USERFAULTS_MAX);
    guard_hold(&launch->tree, member, number, fd);
}

static void on_userfaultfd(struct launch *launch, struct member *member, int fd)
{
    if (!userfaults_hold(&member->userfaults, 0, fd))
        return;
    if (launch->tree.guard == 0)
        guard_start(&launch->tree);
    else
        guard_hold(&launch->tree, member, 0, fd);
}

static void on_child_gone(struct launch *launch, struct member *member, uint64_t number)
{
    guard_drop(&launch->tree, member, number);
    userfaults_release(&member->userfaults, number);
}

static bool all_ready(const struct tree *tree)
{
    bool all = true;
    for (uint32_t i = 0; i < tree->count; i++)
        all = all && tree->members[i].ready;
    return all;
}

static void on_ready(struct launch *launch, struct member *member)
{
    member->ready = true;
    if (launch->phase == PHASE_RESTORING && all_ready(&launch->tree))
        release_tree(launch);
}

static void on_all_loaded(struct launch *launch)
{
    struct wr_counters counters;
    guard_dismiss(&launch->tree);
    recording_finish(launch);
    launch->loaded_ms = (double)(now_ns() - launch->start_ns) / 1e6;
    tree_count(&launch->tree, &counters);
    report_stats("loaded", "loaded_ms", launch->loaded_ms, &counters);
}

/* Threads may wait for an event of theirs to be read, which nobody will do any more: closing lets them go on. */
static void on_loaded(struct launch *launch, struct member *member)
{
    bool all = true;
    member->loaded = true;
    for (size_t i = 0; i < member->userfaults.count; i++)
        guard_drop(&launch->tree, member, member->userfaults.held[i].number);
    userfaults_release_all(&member->userfaults);
    for (uint32_t i = 0; i < launch->tree.count; i++)
        all = all && launch->tree.members[i].loaded;
    if (all)
        on_all_loaded(launch);
    if (launch->phase != PHASE_RESTORING)
        member->phase = PHASE_LEAVING;
}

/* The pager cannot tell an exec from a leader that has ended; who is asked again and again just does not answer. */
static void on_alone(const struct member *member, const struct wr_message *message)
{
    if (!proc_uses(member->pid, member->region.start))
        send(member->channel, message, sizeof(*message), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void on_failed(const struct launch *launch, const struct member *member)
{
    if (launch->phase != PHASE_RESTORING || !failure_say(&launch->image, &member->region))
        return;
    quit(EXIT_OWN_FAILURE);
}

static void handle(struct launch *launch, struct member *member, const struct wr_message *message, int fd)
{
    switch (message->kind) {
    case WR_MESSAGE_UFFD:
        on_userfaultfd(launch, member, fd);
        break;
    case WR_MESSAGE_CHILD:
        on_child(launch, member, message->a, fd);
        break;
    case WR_MESSAGE_CHILD_GONE:
        on_child_gone(launch, member, message->a);
        break;
    case WR_MESSAGE_BORN:
        tree_note_born(member, fd);
        guard_target(&launch->tree, member);
        break;
    case WR_MESSAGE_PAGER:
        tree_note_pager(member, fd);
        break;
    case WR_MESSAGE_FAILED:
        on_failed(launch, member);
        break;
    case WR_MESSAGE_LEFT:
        member->pager_left = true;
        break;
    case WR_MESSAGE_ALONE:
        on_alone(member, message);
        break;
    case WR_MESSAGE_SUSPEND:
        suspend_seize(member, &launch->image);
        break;
    case WR_MESSAGE_READY:
        on_ready(launch, member);
        break;
    case WR_MESSAGE_LOADED:
        on_loaded(launch, member);
        break;
    case WR_MESSAGE_POISONED:
        on_poisoned(launch, member, message);
        break;
    case WR_MESSAGE_EAGER_BAD:
        on_eager_bad(launch, member, message);
        break;
    case WR_MESSAGE_SHARED_BAD:
        on_shared_bad(launch, message);
        break;
    case WR_MESSAGE_CALLS:
        calls_answer(&member->region.ctl->calls);
        break;
    case WR_MESSAGE_WIPES:
        wipes_answer(&member->region.ctl->wipes, member->pid, message->a);
        break;
    case WR_MESSAGE_HOT_BAD:
        warn("the working set is damaged from block %llu on and is not used: pack it again with 'restorer "
             "optimize'",
             (unsigned long long)message->a);
        break;
    case WR_MESSAGE_LOST:
        die("the pager cannot go on (%s: %s): the program has been killed", lost_word(message->b),
            strerror((int)message->a));
    }
}

static void drain(struct launch *launch, struct member *member)
{
    struct wr_message message;
    int fd;
    while (member->channel >= 0) {
        enum channel_state state = channel_peek(member->channel, &message, &fd);
        if (state == CHANNEL_EMPTY)
            return;
        if (state == CHANNEL_MESSAGE) {
            handle(launch, member, &message, fd);
            channel_drop(member->channel);
            continue;
        }
        close(member->channel);
        member->channel = -1;
    }
}

void messages_drain(struct launch *launch)
{
    for (uint32_t i = 0; i < launch->tree.count; i++)
        drain(launch, &launch->tree.members[i]);
}
