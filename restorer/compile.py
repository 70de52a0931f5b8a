# SPDX-License-Identifier: Apache-2.0
"""From a frozen tree to an image: the order in which state is read, and the order in which it is put back.

    tree = capture_tree(frozen)
    walked = [memory.capture(tracee, state.vmas, eager_ranges(state), writer) for each process]
    blob = compile_image(tree, summaries)

The order of `compile_image` is that of docs/architecture.md, "The programs"; every step says what it needs.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from restorer import holes, wire
from restorer.errors import Refused
from restorer.frozen import Frozen
from restorer.model import Vma
from restorer.procfs import Process
from restorer.program import CTL, Data, Header, Image, ProcessEntry, Segment, Slot
from restorer.record import dataclass
from restorer.sigframe import needed_features
from restorer.state import (
    births,
    channel,
    choices,
    clocks,
    contents,
    credentials,
    cwd,
    fdcapture,
    fds,
    fdtable,
    hugeroom,
    hugetlb,
    inheritance,
    itimers,
    lazyshared,
    membarrier,
    mempolicies,
    mm,
    namespaces,
    oom,
    outer_terminals,
    pager,
    pending,
    personality,
    posix_timers,
    prctls,
    ptys,
    rlimits,
    scheduling,
    seccomp,
    security,
    sharers,
    shmfiles,
    sigactions,
    sysvmsg,
    sysvsem,
    tables,
    threads,
    umask,
    unshared,
    unsupported,
    userfault,
    vdso,
    vmas,
)
from restorer.state.choices import Choices
from restorer.state.fdtable import Fds
from restorer.tracee import Tracee

if TYPE_CHECKING:
    from restorer.memory import Carried, MemorySummary

MANIFEST_SCHEMA = "restorer.image/1"
_BYTES_SHOWN_MAX = 256
# Fds of its own that the launcher needs for each process, below those of the restore.
_FDS_OF_PROCESS = 4
# Several who are at work in one table must not be given, for a moment, a number that one of them has chosen.
_FDS_OF_SHARED_TABLE = 16


@dataclass(frozen=True)
class ThreadPart:
    """What belongs to one thread."""

    thread: threads.ThreadState
    credentials: credentials.Credentials
    scheduling: scheduling.Scheduling
    mempolicy: mempolicies.Policy
    seccomp: seccomp.Seccomp


@dataclass(frozen=True)
class CheckpointState:
    """All of a process but its pages. `eager` are address ranges that must be in place before resume."""

    pid: int
    name: str
    argv: tuple[str, ...]
    stopped: bool
    memory: vmas.Vmas
    vdso: vdso.Vdso
    mm: mm.Mm
    membarrier: membarrier.Membarrier
    fds: Fds
    contents: contents.Contents
    cwd: cwd.Cwd
    umask: umask.Umask
    unshared: tuple[unshared.Own, ...]
    sigactions: tuple[sigactions.Sigaction, ...]
    itimers: itimers.Itimers
    posix_timers: posix_timers.PosixTimers
    prctls: prctls.Prctls
    rlimits: rlimits.Rlimits
    oom: oom.Oom
    personality: personality.Personality
    pending: pending.Pending
    threads: tuple[ThreadPart, ...]
    eager: tuple[tuple[int, int], ...]

    @property
    def vmas(self) -> tuple[Vma, ...]:
        """The mappings whose pages belong into the image."""
        return vmas.content(self.memory)

    @property
    def leader(self) -> ThreadPart:
        """The thread whose tid is the pid."""
        return self.threads[0]


@dataclass(frozen=True)
class TreeState:
    """All of a tree but its pages. Fds of a restore lie at or above `fd_base`. `foreground`: it had the
    terminal of a session outside.
    """

    births: births.Births
    tables: tables.Tables
    processes: tuple[CheckpointState, ...]
    lazy: lazyshared.Lazy
    semaphores: tuple[sysvsem.Semaphores, ...]
    queues: tuple[sysvmsg.Queue, ...]
    foreground: outer_terminals.Foreground | None
    clocks: clocks.Clocks
    fd_base: int

    @property
    def root(self) -> CheckpointState:
        """The process that was named."""
        return self.processes[0]


def capture_tree(frozen: Frozen, choices: Choices = choices.NONE) -> TreeState:
    """Reads everything but the pages. Raises Refused, by name and reason, for what cannot be restored.

    Injects syscalls; the targets' state is as before afterwards. `choices` say what becomes of connections
    that lead out of the tree.
    """
    stopped_at = clocks.capture(frozen.root.process)
    namespaces.enter_ipc(frozen.root)
    unsupported.check(frozen.tracees)
    sysvsem.check(frozen.tracees)
    for tracee in frozen.tracees:
        namespaces.check(tracee, frozen.root)
        security.check(tracee, Process(os.getpid()))
    shared = tables.capture(frozen.tracees)
    family = inheritance.arrange(births.capture(frozen.pids, frozen.zombies), shared)
    # Its mappings first: later ones of ours would be among them.
    brought = shmfiles.find(frozen.tracees)
    memories = [vmas.capture(tracee, brought) for tracee in frozen.tracees]
    opened = fdcapture.capture(frozen.tracees, choices, shared, brought)
    processes = [
        _capture_process(tracee, memory, table)
        for tracee, memory, table in zip(frozen.tracees, memories, opened, strict=True)
    ]
    found = [(*vmas.carried(one.memory), *fdtable.carried(one.fds)) for one in processes]
    used = [_used(one.memory, one.vdso) for one in processes]
    lazy = lazyshared.choose([_candidate(one) for one in processes], [span for one in used for span in one])
    moved = len(contents.exchanged(found)) + len(fdtable.lent(opened)) + shared.most
    passing = _FDS_OF_PROCESS * len(processes) + (_FDS_OF_SHARED_TABLE * shared.most if shared.shared else 0)
    fd_base = max(wire.FD_BASE_MIN, fdtable.first_free(opened) + passing + moved)
    fdtable.check_room(opened, fd_base)
    divided = contents.divide(found, used, [one.pid for one in processes], fd_base - moved, lazy.files)
    sharers.check(frozen.pids, (content for one in divided for content, _ in one.files))
    return TreeState(
        births=births.with_stops(family, frozen.tracees, [one.stopped for one in processes]),
        tables=shared,
        processes=tuple(replace(one, contents=own) for one, own in zip(processes, divided, strict=True)),
        lazy=lazy,
        semaphores=sysvsem.capture(frozen.pids),
        queues=sysvmsg.capture(frozen.pids),
        foreground=outer_terminals.capture_foreground(frozen.tracees),
        clocks=stopped_at,
        fd_base=fd_base,
    )


def _candidate(state: CheckpointState) -> lazyshared.Candidate:
    opened = frozenset(fdtable.carried(state.fds))
    return lazyshared.Candidate(state.memory, opened, state.rlimits, state.eager)


def _capture_process(tracee: Tracee, memory: vmas.Vmas, table: Fds) -> CheckpointState:
    process = tracee.process
    timers = posix_timers.capture(tracee)
    parts = tuple(_capture_thread(tracee, index) for index in range(len(tracee.threads)))
    shared_pending = pending.capture(tracee)
    layout = mm.capture(tracee)
    return CheckpointState(
        pid=tracee.nspid,
        name=process.comm(),
        argv=tuple(process.cmdline()),
        stopped=tracee.stopped or pending.stops(shared_pending),
        memory=memory,
        vdso=vdso.capture(tracee),
        mm=layout,
        membarrier=membarrier.capture(tracee),
        fds=table,
        contents=contents.NO_CONTENTS,
        cwd=cwd.capture(process),
        umask=umask.capture(process),
        unshared=unshared.capture(tracee),
        sigactions=sigactions.capture(tracee),
        itimers=itimers.capture(tracee),
        posix_timers=posix_timers.settle(timers, (shared_pending, *(one.thread.pending for one in parts))),
        prctls=prctls.capture(tracee),
        rlimits=rlimits.capture(tracee),
        oom=oom.capture(tracee),
        personality=personality.capture(tracee),
        pending=shared_pending,
        threads=parts,
        eager=_never_lazy(tracee, layout, parts),
    )


def _capture_thread(tracee: Tracee, index: int) -> ThreadPart:
    thread = tracee.threads[index]
    return ThreadPart(
        threads.capture(tracee, thread),
        credentials.capture(thread),
        scheduling.capture(thread),
        mempolicies.capture_thread(tracee, thread),
        seccomp.capture(thread),
    )


def _never_lazy(tracee: Tracee, layout: mm.Mm, parts: tuple[ThreadPart, ...]) -> tuple[tuple[int, int], ...]:
    found = mm.never_lazy(layout)
    for part in parts:
        found += threads.never_lazy(part.thread, tracee)
    ranges = sorted((max(start, 0), min(end, wire.TASK_SIZE)) for start, end in found)
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def eager_ranges(state: CheckpointState) -> tuple[tuple[int, int], ...]:
    """(start, end) of the bytes that must be in place before resume, sorted and disjoint."""
    return state.eager


def carried_chunks(tree: TreeState, index: int) -> Iterator[Carried]:
    """The chunks in the page index of one process that are not of its own mappings, by address."""
    own = tree.processes[index].contents
    return lazyshared.carried(own, tree.lazy if index == 0 else lazyshared.Lazy())


def compile_image(tree: TreeState, summaries: Sequence[MemorySummary]) -> bytes:
    """The sealed blob. Raises Refused if the processes need more than an image can hold."""
    images: list[Image] = []
    for index, state in enumerate(tree.processes):
        root, rank = images[0] if images else None, tree.tables.rank(index)
        images.append(Image(len(state.threads), tree.fd_base, f"main {state.pid}", root, rank))
    room = hugeroom.needed([(state.memory, state.contents) for state in tree.processes])
    hugetlb.emit_room(room, images[0])
    ptys.emit_pairs(tree.root.fds.ptys, images[0])
    births.emit(tree.births, images, [state.name for state in tree.processes], tree.root.fds.ptys)
    for state, image in zip(tree.processes, images, strict=True):
        _emit_address_space(state, image)
        _emit_tasks(tree, state, image, _emit_memory(state, image))
        contents.emit_late(state.contents, image)
        _emit_apart(state, image)
    for semaphores in tree.semaphores:
        sysvsem.emit(semaphores, images[0])
    for queue in tree.queues:
        sysvmsg.emit(queue, images[0])
    slots = fds.emit_open([state.fds for state in tree.processes], images, shared=tree.tables.shared)
    for state, image in zip(tree.processes, images, strict=True):
        _emit_process(tree, state, slots, image)
        for index in range(1, len(state.threads)):
            _emit_thread_early(state.threads[index], image, index)
        _emit_restrictions(state, image)
        _emit_last(tree, state, image)
        for index in range(1, len(state.threads)):
            _emit_thread_late(state.threads[index], image, index)
    return images[0].seal(_header(tree, summaries, images[0]))


def _emit_address_space(state: CheckpointState, image: Image) -> None:
    # Before the vDSO is parked there, which would come back with the region's flag: children need it.
    vmas.emit_hide_region(image)
    vdso.emit_park(state.vdso, image)
    vmas.emit_clear(image)
    contents.emit(state.contents, image)
    vmas.emit(state.memory, image, state.contents)
    lazyshared.emit_hide(state.contents, image)
    vdso.emit(state.vdso, image)


def _emit_memory(state: CheckpointState, image: Image) -> userfault.Userfaults:
    uffds = userfault.emit(state.memory, lazyshared.segments(state.memory, state.contents), image)
    mm.emit(state.mm, image)
    membarrier.emit(state.membarrier, image)
    return uffds


def _emit_tasks(tree: TreeState, state: CheckpointState, image: Image, uffds: userfault.Userfaults) -> None:
    threads.emit_spawn(tuple(part.thread for part in state.threads), image)
    births.emit_groups(tree.births, state.fds.ptys, image)
    userfault.emit_send(uffds, image)
    pager.emit_spawn(image)
    pager.emit(state.leader.credentials, uffds, image)
    births.emit_settled(tree.births, image)
    seccomp.emit_suspend(_filters(state), image)


def _filters(state: CheckpointState) -> list[seccomp.Seccomp]:
    return [part.seccomp for part in state.threads]


def _emit_apart(state: CheckpointState, image: Image) -> None:
    # What opens files, and takes threads out of what the process has: before others who share it go on.
    oom.emit(state.oom, image)
    unshared.emit(state.unshared, image)


def _emit_process(tree: TreeState, state: CheckpointState, slots: dict[int, Slot], image: Image) -> None:
    fds.emit(state.fds, slots, image)
    if tree.tables.fs[image.index] == image.index:
        cwd.emit(state.cwd, image.main)
        umask.emit(state.umask, image.main)
    sigactions.emit(state.sigactions, image)
    posix_timers.emit(state.posix_timers, image)
    prctls.emit(state.prctls, image)
    rlimits.emit(state.rlimits, image)
    scheduling.emit(state.leader.scheduling, image, 0)
    mempolicies.emit_thread(state.leader.mempolicy, image, 0)
    threads.emit_early(state.leader.thread, image, 0)


def _emit_restrictions(state: CheckpointState, image: Image) -> None:
    vmas.emit_late(state.memory, image)
    personality.emit(state.personality, image)
    fds.emit_watches(state.fds, image)
    fds.emit_resume(state.fds, image)
    seccomp.emit(_filters(state), image)
    # PR_SET_DUMPABLE acts on the mm, and any task's change of credentials resets it (commit_creds): after
    # them all.
    for index, part in enumerate(state.threads):
        credentials.emit(part.credentials, image, index)


def _emit_last(tree: TreeState, state: CheckpointState, image: Image) -> None:
    fds.emit_late(state.fds, image)
    image.main.wait(CTL.ready, len(state.threads) - 1)
    prctls.emit_late(state.prctls, image)
    threads.emit_late(state.leader.thread, image, 0)
    births.emit_stops(tree.births, image)
    pending.emit(state.pending, image)
    itimers.emit_late(state.itimers, image)
    posix_timers.emit_late(state.posix_timers, image)
    channel.emit_ready(image)
    # The root, whose parent is the launcher, is stopped by that.
    threads.emit_enter(state.leader.thread, image, 0, stops=state.stopped and image.index > 0)


def _emit_thread_early(part: ThreadPart, image: Image, index: int) -> None:
    threads.emit_early(part.thread, image, index)
    scheduling.emit(part.scheduling, image, index)
    mempolicies.emit_thread(part.mempolicy, image, index)


def _emit_thread_late(part: ThreadPart, image: Image, index: int) -> None:
    threads.emit_late(part.thread, image, index)
    threads.emit_enter(part.thread, image, index)


def _one_of_group(tree: TreeState, pty: ptys.Pty) -> int:
    sessions = [birth.session for birth in tree.births.processes]
    groups, pids = [one.group for one in sessions], [one.pid for one in sessions]
    return groups.index(pty.foreground) if pty.foreground in groups else pids.index(pty.session)


def _terminal(tree: TreeState, image: Image) -> Data | None:
    for pty in tree.root.fds.ptys:
        if pty.outer:
            master = image.opened[pty.key(ptys.MASTER)]
            return outer_terminals.emit(pty.settings, _one_of_group(tree, pty), master, image)
    if tree.foreground is None:
        return None
    return outer_terminals.emit(tree.foreground.settings, tree.foreground.process, None, image)


def _header(tree: TreeState, summaries: Sequence[MemorySummary], image: Image) -> Header:
    frames = [part.thread.frame for state in tree.processes for part in state.threads]
    features = 0
    for frame in frames:
        features |= needed_features(frame.xstate)
    return Header(
        image_id=summaries[0].image_id,
        xfeatures=features,
        xstate_bytes=max(len(frame.xstate.area) for frame in frames),
        processes=tuple(
            _process_entry(state, summary) for state, summary in zip(tree.processes, summaries, strict=True)
        ),
        pids=tree.births.pids,
        leaders=len(tree.births.leaders),
        manifest=_manifest(tree, summaries),
        terminal=_terminal(tree, image),
        clocks=(tree.clocks.monotonic_ns, tree.clocks.boottime_ns, int(tree.clocks.own)),
    )


def _bases(state: CheckpointState) -> tuple[tuple[int, int], ...]:
    used = _used(state.memory, state.vdso)
    used += [(start, start + content.mapped_bytes) for content, start in state.contents.windows.items()]
    bases = holes.candidate_bases(used)
    if not bases:
        raise Refused(f"process {state.pid} leaves no room in its address space for the pager")
    return bases


def _used(memory: vmas.Vmas, kernels: vdso.Vdso) -> list[tuple[int, int]]:
    used = [(mapping.vma.start - _growth(mapping.vma), mapping.vma.end) for mapping in memory.mappings]
    return used + [(block.start, block.start + block.length) for block in kernels.blocks]


def _growth(vma: Vma) -> int:
    # A stack may grow to its limit, 8 MiB as a rule, and keeps a guard gap of 1 MiB (stack_guard_gap).
    return 9 << 20 if "gd" in vma.flags else 0


def _process_entry(state: CheckpointState, summary: MemorySummary) -> ProcessEntry:
    return ProcessEntry(
        pid=state.pid,
        map_id=summary.map_id,
        records_count=summary.records_count,
        map_check=summary.map_check,
        vdso_syscall=state.vdso.syscall_insn,
        flags=_process_flags(state),
        segments=_segments(state),
        bases=_bases(state),
    )


def _segments(state: CheckpointState) -> tuple[Segment, ...]:
    found = (
        *vmas.segments(state.memory),
        *contents.segments(state.contents),
        *lazyshared.segments(state.memory, state.contents),
    )
    return tuple(sorted(found, key=lambda segment: segment.start))


def _process_flags(state: CheckpointState) -> wire.ProcessFlag:
    flags = wire.ProcessFlag.STOPPED if state.stopped else wire.ProcessFlag.NONE
    if state.prctls.death_signal:
        flags |= wire.ProcessFlag.DEATH_SIGNAL
    return flags


def _manifest(tree: TreeState, summaries: Sequence[MemorySummary]) -> bytes:
    described = [
        {"pid": state.pid, "command": _command(state), "summary": summary, "state": state}
        for state, summary in zip(tree.processes, summaries, strict=True)
    ]
    document = {
        "schema": MANIFEST_SCHEMA,
        "created": time.time(),
        **described[0],
        "firewall": tree.root.fds.firewall,
        "births": tree.births,
        "tables": tree.tables,
        "semaphores": tree.semaphores,
        "queues": tree.queues,
        "foreground": tree.foreground,
        "clocks": tree.clocks,
        "descendants": described[1:],
    }
    text = json.dumps(document, default=plain, separators=(",", ":"), ensure_ascii=False)
    # Paths may hold bytes that are no UTF-8; people read this, programs do not restore from it.
    return text.encode("utf-8", "replace")


def _command(state: CheckpointState) -> str:
    return shlex.join(state.argv) or f"[{state.name}]"


def plain(value: Any) -> Any:
    """One value as JSON has it, its parts as they are: dataclasses as objects, sets as sorted lists, bytes as
    hex or, where they are many, as their number. Raises TypeError for what is none of these.
    """
    if is_dataclass(value):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _BYTES_SHOWN_MAX else f"{len(value)} bytes"
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in a manifest")
