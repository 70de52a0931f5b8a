/* SPDX-License-Identifier: Apache-2.0 */
#include "messages.h"

#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "guard.h"
#include "page_index.h"
#include "recording.h"
#include "release.h"
#include "report.h"
#include "say.h"

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
    default:
        return "paging";
    }
}

static uint64_t chunk_number(const struct launch *launch, uint64_t where)
{
    return page_index_chunk(&launch->store, image_process(&launch->image), launch->region.records, where);
}

static void on_poisoned(const struct launch *launch, const struct wr_message *message)
{
    warn("chunk %llu of the store is damaged: %llu pages at 0x%llx poisoned; the program gets SIGBUS there",
         (unsigned long long)chunk_number(launch, message->b), (unsigned long long)message->c,
         (unsigned long long)message->a);
}

static void on_eager_bad(const struct launch *launch, const struct wr_message *message)
{
    die("chunk %llu of the store is damaged: %llu pages at 0x%llx must be there before the program runs, so "
        "it is "
        "not restored; see 'restorer verify'",
        (unsigned long long)chunk_number(launch, message->b), (unsigned long long)message->c,
        (unsigned long long)message->a);
}

/* Without the launcher's duplicate a child could outlive the pager with memory missing: it may not run on. */
static void on_child(struct launch *launch, uint64_t number, int fd)
{
    if (!userfaults_hold(&launch->tree.userfaults, number, fd))
        die("more than %d processes were forked while memory was missing: the program has been killed; "
            "restore with "
            "--fill before",
            USERFAULTS_MAX);
    guard_hold(&launch->tree, fd);
}

/* Threads may wait for an event of theirs to be read, which nobody will do any more: closing lets them go on. */
static void on_loaded(struct launch *launch)
{
    guard_dismiss(&launch->tree);
    userfaults_release_all(&launch->tree.userfaults);
    recording_finish(launch);
    launch->loaded_ms = (double)(now_ns() - launch->start_ns) / 1e6;
    report_stats("loaded", "loaded_ms", launch->loaded_ms, &launch->region.ctl->counters);
    if (launch->phase == PHASE_RUNNING)
        launch->phase = PHASE_LEAVING;
}

static void handle(struct launch *launch, const struct wr_message *message, int fd)
{
    switch (message->kind) {
    case WR_MESSAGE_UFFD:
        if (userfaults_hold(&launch->tree.userfaults, 0, fd))
            guard_start(&launch->tree);
        break;
    case WR_MESSAGE_CHILD:
        on_child(launch, message->a, fd);
        break;
    case WR_MESSAGE_CHILD_GONE:
        userfaults_release(&launch->tree.userfaults, message->a);
        break;
    case WR_MESSAGE_READY:
        if (launch->phase == PHASE_RESTORING)
            release_tree(launch);
        break;
    case WR_MESSAGE_LOADED:
        on_loaded(launch);
        break;
    case WR_MESSAGE_POISONED:
        on_poisoned(launch, message);
        break;
    case WR_MESSAGE_EAGER_BAD:
        on_eager_bad(launch, message);
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

void messages_drain(struct launch *launch)
{
    struct wr_message message;
    int fd;
    while (launch->tree.channel >= 0) {
        enum channel_state state = channel_receive(launch->tree.channel, &message, &fd);
        if (state == CHANNEL_EMPTY)
            return;
        if (state == CHANNEL_MESSAGE) {
            handle(launch, &message, fd);
            continue;
        }
        close(launch->tree.channel);
        launch->tree.channel = -1;
    }
}
