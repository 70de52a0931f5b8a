# SPDX-License-Identifier: Apache-2.0
"""From a frozen process to an image: the order in which state is read, and the order in which it is put back.

    state = capture_state(tracee)
    summary = memory.capture(tracee, state.vmas, eager_ranges(state), writer)
    blob = compile_image(state, summary)

The order of `compile_image` is that of docs/architecture.md, "The programs"; every step says what it needs.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from restorer import holes, wire
from restorer.errors import Refused
from restorer.model import Vma
from restorer.program import CTL, SLOT, Header, Image, ProcessEntry, Segment, Slot
from restorer.state import (
    contents,
    credentials,
    cwd,
    fds,
    itimers,
    mm,
    namespaces,
    oom,
    pager,
    pending,
    personality,
    posix_timers,
    prctls,
    registers,
    rlimits,
    scheduling,
    session,
    sharers,
    sigactions,
    threads,
    umask,
    unsupported,
    userfault,
    vdso,
    vmas,
)
from restorer.syscalls import NR
from restorer.tracee import Tracee

if TYPE_CHECKING:
    from restorer.memory import MemorySummary

MANIFEST_SCHEMA = "restorer.image/1"
_BYTES_SHOWN_MAX = 256


@dataclass(frozen=True)
class ThreadPart:
    """What belongs to one thread."""

    thread: threads.ThreadState
    credentials: credentials.Credentials
    scheduling: scheduling.Scheduling


@dataclass(frozen=True)
class CheckpointState:
    """All of a process but its pages. `eager` are address ranges that must be in place before resume."""

    pid: int
    name: str
    argv: tuple[str, ...]
    stopped: bool
    fd_base: int
    memory: vmas.Vmas
    vdso: vdso.Vdso
    mm: mm.Mm
    fds: fds.Fds
    contents: contents.Contents
    cwd: cwd.Cwd
    umask: umask.Umask
    session: session.Session
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


def capture_state(tracee: Tracee, *, tcp_close: bool = False) -> CheckpointState:
    """Reads everything but the pages. Raises Refused, by name and reason, for what cannot be restored.

    Injects syscalls; the target's state is as before afterwards. `tcp_close`: established TCP connections
    come back as connections that the peer has reset, rather than being refused.
    """
    unsupported.check(tracee)
    namespaces.check(tracee)
    process = tracee.process
    fd_numbers = process.fds()
    memory = vmas.capture(tracee)
    timers = posix_timers.capture(tracee)
    parts = tuple(_capture_thread(tracee, index) for index in range(len(tracee.threads)))
    shared_pending = pending.capture(tracee)
    layout = mm.capture(tracee)
    vdso_state, open_files = vdso.capture(tracee), fds.capture(tracee, tcp_close=tcp_close)
    carried = contents.place((*vmas.carried(memory), *fds.carried(open_files)), _used(memory, vdso_state))
    sharers.check(tracee.pid, (content for content, _ in carried.files))
    return CheckpointState(
        pid=tracee.nspid,
        name=process.comm(),
        argv=tuple(process.cmdline()),
        stopped=tracee.stopped or pending.stops(shared_pending),
        fd_base=max(wire.FD_BASE_MIN, *(number + 1 for number in fd_numbers), 0),
        memory=memory,
        vdso=vdso_state,
        mm=layout,
        fds=open_files,
        contents=carried,
        cwd=cwd.capture(tracee),
        umask=umask.capture(tracee),
        session=session.capture(tracee),
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
        threads.capture(tracee, thread), credentials.capture(thread), scheduling.capture(thread)
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


def compile_image(state: CheckpointState, summary: MemorySummary) -> bytes:
    """The sealed blob. Raises Refused if the process needs more than an image can hold."""
    image = Image(len(state.threads), state.fd_base, f"main {state.pid}")
    _emit_address_space(state, image)
    uffd = _emit_memory(state, image)
    _emit_tasks(state, image, uffd)
    _emit_process(state, image)
    _emit_last(state, image)
    for index in range(1, len(state.threads)):
        _emit_thread(state.threads[index], image, index)
    return image.seal(_header(state, summary))


def _emit_address_space(state: CheckpointState, image: Image) -> None:
    # Before the vDSO is parked there, which would come back with the region's flag: children need it.
    vmas.emit_hide_region(image)
    vdso.emit_park(state.vdso, image)
    vmas.emit_clear(image)
    contents.emit(state.contents, image)
    vmas.emit(state.memory, image, state.contents)
    vdso.emit(state.vdso, image)


def _emit_memory(state: CheckpointState, image: Image) -> Slot:
    uffd = userfault.emit(state.memory, image)
    mm.emit(state.mm, image)
    return uffd


def _emit_tasks(state: CheckpointState, image: Image, uffd: Slot) -> None:
    threads.emit_spawn(tuple(part.thread for part in state.threads), image)
    userfault.emit_send(uffd, image)
    pager.emit_spawn(image)
    pager.emit(state.leader.credentials, uffd, image)


def _emit_process(state: CheckpointState, image: Image) -> None:
    session.emit(state.session, image)
    contents.emit_late(state.contents, image)
    fds.emit(state.fds, image)
    oom.emit(state.oom, image)
    cwd.emit(state.cwd, image)
    umask.emit(state.umask, image)
    sigactions.emit(state.sigactions, image)
    posix_timers.emit(state.posix_timers, image)
    prctls.emit(state.prctls, image)
    rlimits.emit(state.rlimits, image)
    scheduling.emit(state.leader.scheduling, image, 0)
    threads.emit_early(state.leader.thread, image, 0)


def _emit_last(state: CheckpointState, image: Image) -> None:
    vmas.emit_late(state.memory, image)
    personality.emit(state.personality, image)
    # PR_SET_DUMPABLE acts on the mm, and any task's change of credentials resets it (commit_creds): after
    # them all.
    credentials.emit(state.leader.credentials, image, 0)
    fds.emit_late(state.fds, image)
    image.main.wait(CTL.ready, len(state.threads) - 1)
    prctls.emit_late(state.prctls, image)
    threads.emit_late(state.leader.thread, image, 0)
    pending.emit(state.pending, image)
    itimers.emit_late(state.itimers, image)
    posix_timers.emit_late(state.posix_timers, image)
    with image.about("the channel to the launcher"):
        ready = image.data(wire.MESSAGE.pack(wire.MessageKind.READY, 0, 0, 0, 0))
        image.main.syscall(NR.write, SLOT.channel, ready, wire.MESSAGE.size)
        image.main.syscall(NR.close, SLOT.channel)
    threads.emit_enter(state.leader.thread, image, 0)


def _emit_thread(part: ThreadPart, image: Image, index: int) -> None:
    threads.emit_early(part.thread, image, index)
    scheduling.emit(part.scheduling, image, index)
    credentials.emit(part.credentials, image, index)
    threads.emit_late(part.thread, image, index)
    threads.emit_enter(part.thread, image, index)


def _header(state: CheckpointState, summary: MemorySummary) -> Header:
    used = _used(state.memory, state.vdso)
    used += [(segment.start, segment.end) for segment in contents.segments(state.contents)]
    bases = holes.candidate_bases(used)
    if not bases:
        raise Refused("the process leaves no room in its address space for the pager")
    frames = [part.thread.frame for part in state.threads]
    features = 0
    for frame in frames:
        features |= registers.needed_features(frame.xstate)
    return Header(
        image_id=summary.image_id,
        bases=bases,
        xfeatures=features,
        xstate_bytes=max(len(frame.xstate.area) for frame in frames),
        process=_process_entry(state, summary),
        manifest=_manifest(state, summary),
    )


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
    )


def _segments(state: CheckpointState) -> tuple[Segment, ...]:
    found = (*vmas.segments(state.memory), *contents.segments(state.contents))
    return tuple(sorted(found, key=lambda segment: segment.start))


def _process_flags(state: CheckpointState) -> wire.ProcessFlag:
    flags = wire.ProcessFlag.STOPPED if state.stopped else wire.ProcessFlag.NONE
    if state.prctls.death_signal:
        flags |= wire.ProcessFlag.DEATH_SIGNAL
    return flags


def _manifest(state: CheckpointState, summary: MemorySummary) -> bytes:
    document = {
        "schema": MANIFEST_SCHEMA,
        "created": time.time(),
        "pid": state.pid,
        "command": shlex.join(state.argv) or f"[{state.name}]",
        "summary": summary,
        "state": state,
    }
    text = json.dumps(document, default=plain, separators=(",", ":"), ensure_ascii=False)
    # Paths may hold bytes that are no UTF-8; people read this, programs do not restore from it.
    return text.encode("utf-8", "replace")


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
