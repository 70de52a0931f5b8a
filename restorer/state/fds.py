# SPDX-License-Identifier: Apache-2.0
"""The table of open fds: which number is which open file description, and all of them put back.

The launcher opens each description at or above `fd_base`; the restored process closes all below, takes each
to its numbers, and closes all above but the channel, before it gives sockets their names and fills epoll
instances.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from restorer.errors import Refused
from restorer.program import SLOT, Image, Slot, ok_or
from restorer.state import (
    anonymous,
    descriptors,
    epolls,
    files,
    inet,
    locks,
    pipes,
    sockets,
    stdio,
    timerfds,
    unixsockets,
)
from restorer.state.anonymous import Anonymous
from restorer.state.contents import Content
from restorer.state.descriptors import Descriptor, copied
from restorer.state.epolls import Epoll
from restorer.state.files import File
from restorer.state.inet import InetSocket
from restorer.state.locks import Lock
from restorer.state.opening import FILE_HINT, Opener
from restorer.state.outside import Outside
from restorer.state.pipes import Opened, Pipe, PipeEnd
from restorer.state.sharing import Descriptions
from restorer.state.stdio import Stdio
from restorer.state.timerfds import TimerFd
from restorer.state.unixsockets import UnixSocket
from restorer.syscalls import NR
from restorer.tracee import Tracee

Object: TypeAlias = File | PipeEnd | Anonymous | InetSocket | UnixSocket | Stdio

_Kind = TypeVar("_Kind", Epoll, TimerFd, UnixSocket)

_F_SETOWN_EX, _F_GETOWN_EX, _F_SETSIG, _F_GETSIG = 15, 16, 10, 11
_F_OWNER_TID, _F_OWNER_PID, _F_OWNER_PGRP = 0, 1, 2
_OWNER = struct.Struct("<ii")
_ALL = 0xFFFFFFFF


@dataclass(frozen=True)
class Owner:
    """Who gets SIGIO (F_SETOWN_EX): `pid` as the program knows it; `signal` 0 for SIGIO itself."""

    type: int
    pid: int
    signal: int
    enabled: bool


@dataclass(frozen=True)
class Description:
    """An open file description."""

    object: Object
    owner: Owner | None
    locks: tuple[Lock, ...] = ()


@dataclass(frozen=True)
class Fd:
    """One number of the table; `description` is an index."""

    number: int
    cloexec: bool
    description: int


@dataclass(frozen=True)
class Fds:
    """The table. `cwd` is what relative names of unix sockets start from."""

    fds: tuple[Fd, ...]
    descriptions: tuple[Description, ...]
    pipes: tuple[Pipe, ...]
    cwd: str


def capture(tracee: Tracee, *, tcp_close: bool = False) -> Fds:
    """Reads all fds; nothing in the target changes. Raises Refused naming every fd that cannot be restored.

    With tcp_close, TCP connections are taken as connections the peer has reset.
    """
    found = [descriptors.read(tracee.pid, number) for number in tracee.process.fds()]
    return _Capture(tracee, found, tcp_close).table()


def reset_connections(tracee: Tracee, table: Fds) -> None:
    """Lets the kill that must follow reset the TCP connections of `table`: their ports are free at once."""
    kept = {fd.number for fd in table.fds if isinstance(_object(table, fd), InetSocket)}
    sockets.reset_connections(tracee, [descriptors.read(tracee.pid, number) for number in sorted(kept)])


class _Capture:
    """The state of one capture: descriptors on one side, descriptions and pipes found so far on the other."""

    def __init__(self, tracee: Tracee, found: list[Descriptor], tcp_close: bool) -> None:
        self.tracee = tracee
        self.found = found
        self.tcp_close = tcp_close
        self.numbers = frozenset(one.number for one in found)
        self.sockets = frozenset(one.stat.st_ino for one in found if one.link.startswith("socket:"))
        self.outside = Outside(tracee, found, self.sockets)
        self.pipes: dict[int, int] = {}
        self.captured_pipes: list[Pipe] = []
        self.refusals: list[Refused] = []

    def table(self) -> Fds:
        known = Descriptions()
        objects: list[Description] = []
        fds: list[Fd] = []
        for descriptor in self.found:
            shareable = not self.outside.is_stdio(descriptor)
            index = known.find(descriptor) if shareable else None
            if index is None:
                description = self._try(descriptor)
                if description is None:
                    continue
                index = len(objects)
                objects.append(description)
                if shareable:
                    known.add(descriptor, index)
            fds.append(Fd(descriptor.number, descriptor.cloexec, index))
        self._raise()
        self._check_chroot(objects)
        return Fds(tuple(fds), tuple(objects), tuple(self.captured_pipes), self.tracee.process.cwd())

    def _try(self, descriptor: Descriptor) -> Description | None:
        try:
            state = self._object(descriptor)
            return Description(state, self._owner(descriptor), locks.capture(descriptor))
        except Refused as refusal:
            self.refusals.append(refusal)
            return None

    def _raise(self) -> None:
        if self.refusals:
            causes = dict.fromkeys(refusal.cause for refusal in self.refusals)
            raise Refused("; ".join(causes), next((r.hint for r in self.refusals if r.hint), ""))

    def _object(self, descriptor: Descriptor) -> Object:
        if self.outside.is_stdio(descriptor):
            return stdio.capture(descriptor, self.outside.streams)
        if descriptor.is_fifo and not descriptor.flags & os.O_PATH:
            return self._pipe_end(descriptor)
        if descriptor.link.startswith("socket:"):
            self.outside.refuse_shared(descriptor, "socket")
            return sockets.capture(self.tracee, descriptor, self.sockets, tcp_close=self.tcp_close)
        if descriptor.is_anonymous:
            return anonymous.capture(self.tracee, descriptor, self.numbers, self.outside)
        self.outside.refuse_shared(descriptor, descriptor.link)
        return files.capture(descriptor)

    def _pipe_end(self, descriptor: Descriptor) -> PipeEnd:
        self.outside.refuse_shared(
            descriptor, "pipe" if descriptor.is_anonymous else f"FIFO {descriptor.link}"
        )
        inode = descriptor.stat.st_ino
        if inode not in self.pipes:
            self.pipes[inode] = len(self.captured_pipes)
            self.captured_pipes.append(pipes.capture(self.tracee, self._ends(descriptor)))
        write = descriptor.access != os.O_RDONLY
        return PipeEnd(self.pipes[inode], write, descriptor.kept_flags)

    def _ends(self, descriptor: Descriptor) -> list[Descriptor]:
        """One descriptor for each description of the pipe."""
        ends: list[Descriptor] = []
        known = Descriptions()
        for other in self.found:
            same = other.is_fifo and os.path.samestat(other.stat, descriptor.stat)
            if same and known.find(other) is None:
                known.add(other, len(ends))
                ends.append(other)
        return ends

    def _owner(self, descriptor: Descriptor) -> Owner | None:
        if descriptor.flags & os.O_PATH or self.outside.is_stdio(descriptor):
            return None
        with copied(self.tracee, descriptor.number) as copy:
            try:
                kind, pid = _OWNER.unpack(fcntl.fcntl(copy, _F_GETOWN_EX, bytes(_OWNER.size)))
            except OSError:
                return None
            signal = fcntl.fcntl(copy, _F_GETSIG)
        enabled = bool(descriptor.flags & os.O_ASYNC)
        if not pid:
            return Owner(_F_OWNER_PID, 0, signal, enabled) if signal or enabled else None
        return Owner(kind, self._own_id(descriptor, kind, pid), signal, enabled)

    def _own_id(self, descriptor: Descriptor, kind: int, pid: int) -> int:
        if kind == _F_OWNER_TID:
            for thread in self.tracee.threads:
                if thread.tid == pid:
                    return thread.nstid
        elif pid == self.tracee.pid and (kind != _F_OWNER_PGRP or self.tracee.process.stat.pgrp == pid):
            return self.tracee.nspid
        raise descriptor.refused(
            f"signals of {descriptor.link} go to process {pid} (F_SETOWN)", "take that back first"
        )

    def _check_chroot(self, descriptions: list[Description]) -> None:
        if self.tracee.process.root() != "/" and any(
            isinstance(one.object, UnixSocket) and one.object.file for one in descriptions
        ):
            raise Refused(
                "a unix socket bound to a path inside a chroot cannot be checkpointed", "close it first"
            )


def carried(table: Fds) -> Iterator[Content]:
    """The open files without a name, whose bytes travel in the image."""
    for description in table.descriptions:
        if isinstance(description.object, File) and description.object.content is not None:
            yield description.object.content


def emit(table: Fds, image: Image) -> None:
    """Opens everything in the launcher and takes it to its numbers in the process."""
    slots = _Emit(table, image).open_all()
    main = image.main
    main.syscall(NR.close_range, 0, image.fd_base - 1, 0)
    for fd in table.fds:
        with image.about(_about(table, fd.number, fd.description)):
            flags = os.O_CLOEXEC if fd.cloexec else 0
            main.syscall(NR.dup3, slots[fd.description], fd.number, flags)
    _emit_close_above(image)
    for fd in {fd.description: fd for fd in reversed(table.fds)}.values():
        state = _object(table, fd)
        path = state.path if isinstance(state, File) else state.kind
        locks.emit(table.descriptions[fd.description].locks, fd.number, path, image)
    _emit_names(table, image)
    _emit_owners(table, image)
    outside = frozenset(fd.number for fd in table.fds if isinstance(_object(table, fd), Stdio))
    for number, epoll in _first_numbers(table, Epoll):
        epolls.emit_entries(epoll, number, image, outside)


def emit_late(table: Fds, image: Image) -> None:
    """After credentials: SO_PEERCRED of a listening unix socket is that of the last listen(2)."""
    for number, state in _first_numbers(table, UnixSocket):
        with image.about(f"fd {number}: {unixsockets.describe(state)}"):
            unixsockets.emit_listen(state, number, image)
    for number, timer in _first_numbers(table, TimerFd):
        with image.about(f"fd {number}: timerfd"):
            timerfds.emit_late(timer, number, image)


def _object(table: Fds, fd: Fd) -> Object:
    return table.descriptions[fd.description].object


def _about(table: Fds, number: int, description: int) -> str:
    state = table.descriptions[description].object
    if isinstance(state, File):
        return f"fd {number}: {state.path}"
    if isinstance(state, Stdio):
        return f"fd {number}: {state.stream}"
    return f"fd {number}: {state.kind}"


def _emit_close_above(image: Image) -> None:
    # The channel's number is known to the launcher only; as the first one it leaves an empty range before it.
    main = image.main
    main.syscall(NR.close_range, image.fd_base, SLOT.channel + -1, 0, expect=ok_or(errno.EINVAL))
    main.syscall(NR.close_range, SLOT.channel + 1, _ALL, 0)


def _first_numbers(table: Fds, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
    """The lowest fd of each description of a kind, with its object."""
    seen: dict[int, tuple[int, _Kind]] = {}
    for fd in table.fds:
        state = _object(table, fd)
        if isinstance(state, kind):
            seen.setdefault(fd.description, (fd.number, state))
    return list(seen.values())


def _emit_names(table: Fds, image: Image) -> None:
    named = _first_numbers(table, UnixSocket)
    if any(state.local or state.remote for _, state in named):
        with image.about(f"working directory {table.cwd}"):
            image.main.syscall(NR.chdir, image.string(table.cwd))
    for number, state in named:
        unixsockets.emit_names(state, number, image)
    for number, state in named:
        unixsockets.emit_connect(state, number, image)


def _emit_owners(table: Fds, image: Image) -> None:
    for fd in {fd.description: fd for fd in reversed(table.fds)}.values():
        owner = table.descriptions[fd.description].owner
        if owner is None:
            continue
        with image.about(f"fd {fd.number}: owner of its signals"):
            image.main.syscall(NR.fcntl, fd.number, _F_SETSIG, owner.signal)
            if owner.pid:
                data = image.data(_OWNER.pack(owner.type, owner.pid))
                image.main.syscall(NR.fcntl, fd.number, _F_SETOWN_EX, data)
            if owner.enabled:
                flags = getattr(_object(table, fd), "flags", 0) | os.O_ASYNC
                image.main.syscall(NR.fcntl, fd.number, fcntl.F_SETFL, flags)


class _Emit:
    """Opens descriptions in the launcher; `slots` by index of the description."""

    def __init__(self, table: Fds, image: Image) -> None:
        self.table = table
        self.image = image
        self.opener = Opener(image)
        self.opened: dict[int, Opened] = {}
        self.slots: dict[int, Slot] = {}
        self.numbers = {fd.description: fd.number for fd in reversed(table.fds)}

    def open_all(self) -> dict[int, Slot]:
        for index in range(len(self.table.descriptions)):
            if index not in self.slots:
                self.slots[index] = self._open(index)
        for index, opened in self.opened.items():
            pipes.finish(self.table.pipes[index], opened, self.opener)
        return self.slots

    def _open(self, index: int) -> Slot:
        state = self.table.descriptions[index].object
        about = f"fd {self.numbers[index]}"
        if isinstance(state, InetSocket):
            return inet.emit(state, self.image, self.opener, about)
        if isinstance(state, UnixSocket):
            return self._open_unix(index, state, about)
        hint = FILE_HINT if isinstance(state, File) else ""
        with self.image.about(_about(self.table, self.numbers[index], index), hint):
            if isinstance(state, File):
                return files.emit(state, self.image, self.opener)
            if isinstance(state, PipeEnd):
                return self._open_pipe(state)
            if isinstance(state, Stdio):
                return stdio.emit(state)
            return anonymous.emit(state, self.image, self.opener)

    def _open_pipe(self, end: PipeEnd) -> Slot:
        pipe = self.table.pipes[end.pipe]
        if end.pipe not in self.opened:
            self.opened[end.pipe] = pipes.emit(pipe, self.image, self.opener)
        return pipes.emit_end(end, pipe, self.opened[end.pipe], self.image, self.opener)

    def _open_unix(self, index: int, state: UnixSocket, about: str) -> Slot:
        if state.state != "pair":
            return unixsockets.emit(state, self.image, self.opener, about)
        peer_index = self._peer(state)
        peer = None if peer_index is None else self.table.descriptions[peer_index].object
        assert peer is None or isinstance(peer, UnixSocket)
        one, other = unixsockets.emit_pair((state, peer), self.image, self.opener, about)
        if peer_index is not None:
            self.slots[peer_index] = other
        self.slots[index] = one
        return one

    def _peer(self, state: UnixSocket) -> int | None:
        for index, description in enumerate(self.table.descriptions):
            other = description.object
            if isinstance(other, UnixSocket) and state.peer and other.inode == state.peer:
                return index
        return None
