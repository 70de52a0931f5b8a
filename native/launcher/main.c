/* SPDX-License-Identifier: Apache-2.0
 *
 * restorer-launch: brings the process of an image back, and is its parent.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "awake.h"
#include "channel.h"
#include "clocks.h"
#include "detach.h"
#include "failure.h"
#include "host.h"
#include "launch.h"
#include "messages.h"
#include "namespace.h"
#include "page_index.h"
#include "prefetch.h"
#include "proc.h"
#include "recording.h"
#include "report.h"
#include "say.h"
#include "signals.h"
#include "store_guard.h"
#include "supervise.h"
#include "terminal.h"

/* What the kernel takes struct rseq to be at least, and what the C library registers. */
enum { RSEQ_BYTES = 32 };

static struct launch launch = {
    .tree = {.guard_link = -1, .init_control = -1},
};
static pid_t launcher;

/* What the shared program had brought into being outside of the tree. */
static void undo(void)
{
    const struct region *region = &tree_root(&launch.tree)->region;
    if (launch.shared_begun && launch.phase == PHASE_RESTORING)
        (void)region->run(region->runtime, image_header(&launch.image)->undo_program);
}

static void clean_up(void)
{
    /* Not in a fork of ours that fails: these are not its to take down. */
    if (getpid() != launcher)
        return;
    tree_kill(&launch.tree);
    terminal_take();
    undo();
    report_cleanup();
    store_guard_end();
    store_close(&launch.store);
}

static void open_stdio(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_NOCTTY) < 0)
            _exit(EXIT_OWN_FAILURE);
}

/* A fork inherits the registration, and the kernel would write to it after the loader has unmapped it. */
static void unregister_rseq(void)
{
    char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
    if (__rseq_size == 0)
        return;
    if (syscall(SYS_rseq, area, RSEQ_BYTES, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) != 0 &&
        syscall(SYS_rseq, area, __rseq_size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) != 0)
        die("cannot unregister restartable sequences: %s", strerror(errno));
}

/* The fds of the restore lie above all fds of the image. */
static void raise_fd_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void prepare_self(void)
{
    launcher = getpid();
    say_cleanup(clean_up);
    signals_init();
    proc_open();
    raise_fd_limit();
    unregister_rseq();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static void load_image(void)
{
    struct image *image = &launch.image;
    store_open(&launch.store, launch.options.store);
    image_load(image, &launch.store, launch.options.name);
    host_check_cpu(image);
    image_publish(image, &launch.options);
    tree_init(&launch.tree, image);
    for (uint32_t i = 0; launch.options.namespace && i < image_header(image)->pids_count; i++)
        if (image_pids(image)[i] == 1)
            die("a process that was PID 1 cannot be restored with --pid ns yet: checkpoint it with another "
                "PID");
}

static int stdio_slot(int fd, int fd_base)
{
    int source = detach_stdio(&launch.options, fd);
    int high = host_high_fd(source, fd_base, "stdio");
    if (source != fd)
        close(source);
    return high;
}

/* Those that are the same for all processes, and those of the first one's region. */
static void fill_slots(void)
{
    struct tree *tree = &launch.tree;
    struct region *region = &tree_root(tree)->region;
    uint64_t *slots = region->slots;
    int fd_base = (int)image_header(&launch.image)->fd_base;
    host_offer_vdso(region);
    host_offer_userfaultfd(region, fd_base);
    slots[WR_SLOT_NEW_IPC] = launch.options.namespace ? CLONE_NEWIPC : 0;
    slots[WR_SLOT_DATA_FD] = (uint64_t)host_high_fd(store_data_fd(&launch.store), fd_base, "data.mdb");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        slots[WR_SLOT_STDIN + fd] = (uint64_t)stdio_slot(fd, fd_base);
    for (uint32_t i = 0; i < tree->count; i++) {
        struct member *member = &tree->members[i];
        channel_open(&member->channel, &member->channel_child, fd_base);
        slots[image_process(&launch.image, i)->channel_slot] = (uint64_t)member->channel_child;
    }
}

static void place_slots(const struct member *member)
{
    const struct region *region = &member->region;
    uint64_t *slots = region->slots;
    slots[WR_SLOT_REGION] = region->start;
    slots[WR_SLOT_REGION_BYTES] = region->end - region->start;
    slots[WR_SLOT_REGION_END] = region->end;
    slots[WR_SLOT_TAIL_BYTES] = IMAGE_TASK_SIZE - region->end;
    slots[WR_SLOT_SCRATCH] = region->scratch;
    slots[WR_SLOT_PAGER_STACK] = region->pager_stack;
    slots[WR_SLOT_PAGER_STACK_BYTES] = region->pager_stack_bytes;
    slots[WR_SLOT_PAGER_TLS] = region->pager_tls;
    slots[WR_SLOT_CTL] = (uint64_t)region->ctl;
    slots[WR_SLOT_CHANNEL] = (uint64_t)member->channel_child;
}

static void run_shared(void)
{
    const struct region *region = &tree_root(&launch.tree)->region;
    launch.shared_begun = true;
    if (region->run(region->runtime, image_header(&launch.image)->shared_program) == 0)
        return;
    if (!failure_say(&launch.image, region))
        warn("cannot restore: the loader failed and left no reason");
    quit(EXIT_OWN_FAILURE);
}

/* What the launcher has opened and found out, every process of the tree knows. */
static void share_slots(void)
{
    const struct tree *tree = &launch.tree;
    size_t bytes = image_header(&launch.image)->slots_count * sizeof(uint64_t);
    for (uint32_t i = 1; i < tree->count; i++) {
        memcpy(tree->members[i].region.slots, tree_root(tree)->region.slots, bytes);
        place_slots(&tree->members[i]);
    }
}

/* With a working set the tree can be ready before the index is. */
static void meanwhile(void)
{
    if (tree_root(&launch.tree)->hot.index != NULL)
        messages_drain(&launch);
}

/* The tree is at work on its address spaces meanwhile. */
static void resolve_index(const struct member *member)
{
    const struct region *region = &member->region;
    const struct wr_process *process = image_process(&launch.image, member->index);
    prefetch_chunk_pages(&launch.store, region->records, process->records_count);
    page_index_resolve(&launch.store, process, region->records, meanwhile);
    __atomic_store_n(&region->ctl->index_ready, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &region->ctl->index_ready, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    if (member->index == 0)
        region_share_index(region);
}

static void build_regions(void)
{
    struct tree *tree = &launch.tree;
    for (uint32_t i = 0; i < tree->count; i++) {
        struct member *member = &tree->members[i];
        hot_load(&member->hot, &launch.store, &launch.image, i);
        region_build(&member->region, i == 0 ? NULL : &tree_root(tree)->region, &launch.image, i,
                     &member->hot, &launch.options);
        const struct wr_process *process = image_process(&launch.image, i);
        page_index_decode(&launch.store, process, member->region.records);
    }
    region_share(&tree_root(tree)->region);
    for (uint32_t i = 0; i < tree->count; i++)
        for (uint32_t k = 0; k < tree->count; k++)
            region_link(&tree->members[i].region, k, &tree->members[k].region);
}

static void start(void)
{
    const struct image *image = &launch.image;
    struct tree *tree = &launch.tree;
    clocks_enter(image, &launch.options);
    if (launch.options.namespace)
        namespace_enter(tree);
    else
        tree_await_pids(image);
    build_regions();
    fill_slots();
    place_slots(tree_root(tree));
    run_shared();
    terminal_adopt(&launch);
    share_slots();
    tree_clone(tree, image);
    close_range(image_header(image)->fd_base, ~0U, 0);
    store_guard_kills(tree_root(tree)->pidfd);
    namespace_watch(tree, image_process(image, 0)->pid);
    for (uint32_t i = 0; i < tree->count; i++)
        resolve_index(&tree->members[i]);
    store_guard_end();
}

int main(int argc, char **argv)
{
    launch.start_ns = now_ns();
    open_stdio();
    options_parse(&launch.options, argc, argv);
    say_about(launch.options.name);
    report_open_stats(&launch.options);
    report_close_inherited();
    report_prepare_pidfile(&launch.options);
    recording_open(&launch.options);
    detach_begin(&launch.options);
    awake_begin();
    prepare_self();
    load_image();
    start();
    int code = supervise(&launch);
    store_close(&launch.store);
    return code;
}
