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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from restorer.errors import Refused
from restorer.firewall import Firewall
from restorer.program import SLOT, STAGE, Image, Slot, ok_or
from restorer.state import (
    anonymous,
    descriptors,
    epolls,
    files,
    inet,
    inotify,
    locks,
    netlink,
    pidfds,
    pipes,
    ptys,
    sockets,
    stdio,
    tcp,
    timerfds,
    unixsockets,
)
from restorer.state.anonymous import Anonymous
from restorer.state.contents import Content
from restorer.state.descriptors import Descriptor, copied
from restorer.state.epolls import Epoll
from restorer.state.files import File
from restorer.state.inet import InetSocket
from restorer.state.inotify import Inotify
from restorer.state.locks import Lock
from restorer.state.netlink import NetlinkSocket
from restorer.state.opening import FILE_HINT, Opener
from restorer.state.outside import Outside
from restorer.state.pidfds import PidFd
from restorer.state.pipes import Opened, Pipe, PipeEnd
from restorer.state.ptys import HungUp, Pty, PtyEnd
from restorer.state.sharing import Descriptions
from restorer.state.stdio import Stdio
from restorer.state.timerfds import TimerFd
from restorer.state.unixsockets import UnixSocket
from restorer.syscalls import NR
from restorer.tracee import Tracee

Object: TypeAlias = (
    File | PipeEnd | PtyEnd | HungUp | PidFd | Anonymous | InetSocket | NetlinkSocket | UnixSocket | Stdio
)

_Kind = TypeVar("_Kind", Epoll, InetSocket, Inotify, TimerFd, UnixSocket)

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
    """An open file description; `number` is the lowest of its fds in its home."""

    number: int
    object: Object
    owner: Owner | None


@dataclass(frozen=True)
class Fd:
    """One number of the table; `description` is an index."""

    number: int
    cloexec: bool
    description: int


@dataclass(frozen=True)
class Fds:
    """The table of one process, whose ID is `pid` as the program knows it; descriptions, pipes and ptys are
    those of all its tree. `homes` has for each description the index of the process that is to put back what
    only a holder can. `cwd` is what relative names of unix sockets start from. `locks` are (fd, lock): POSIX
    locks are of a process, others of a description. `firewall` is the nftables table that blocks the tree's
    TCP connections until a restore, "" for none.
    """

    process: int
    pid: int
    fds: tuple[Fd, ...]
    descriptions: tuple[Description, ...]
    homes: tuple[int, ...]
    pipes: tuple[Pipe, ...]
    ptys: tuple[Pty, ...]
    cwd: str
    locks: tuple[tuple[int, Lock], ...]
    firewall: str

    def is_home(self, fd: Fd) -> bool:
        """Whether this process is the one to put back what belongs to the description."""
        return self.homes[fd.description] == self.process


def capture(
    tracees: Sequence[Tracee], *, tcp_close: bool = False, firewall: Firewall | None = None
) -> list[Fds]:
    """Reads all fds of a tree, one table for each process; nothing in the targets changes. Raises Refused
    naming every fd that cannot be restored.

    With tcp_close, TCP connections are taken as connections the peer has reset; with a `firewall`, which
    blocks them, as they are.
    """
    found = [descriptors.read(tracee.pid, number) for tracee in tracees for number in tracee.process.fds()]
    return _Capture(tracees, found, tcp_close, firewall).tables()


def reset_connections(tracees: Sequence[Tracee], tables: Sequence[Fds]) -> None:
    """Lets the kill that must follow reset the TCP connections of `tables`: their ports are free at once."""
    for tracee, table in zip(tracees, tables, strict=True):
        kept = {fd.number for fd in table.fds if isinstance(_object(table, fd), InetSocket)}
        sockets.reset_connections(tracee, [descriptors.read(tracee.pid, number) for number in sorted(kept)])


def close_connections_quietly(tracees: Sequence[Tracee], tables: Sequence[Fds]) -> None:
    """Lets the kill that must follow say nothing to the peers of established TCP connections."""
    for tracee, table in zip(tracees, tables, strict=True):
        for number, state in _first_numbers(table, InetSocket):
            if state.connection:
                sockets.close_connections_quietly(tracee, [descriptors.read(tracee.pid, number)])


class _Capture:
    """The state of one capture: descriptors on one side, descriptions and pipes found so far on the other."""

    def __init__(
        self,
        tracees: Sequence[Tracee],
        found: list[Descriptor],
        tcp_close: bool,
        firewall: Firewall | None,
    ) -> None:
        self.tracees = {tracee.pid: tracee for tracee in tracees}
        self.found = found
        self.tcp_close = tcp_close
        self.firewall = firewall
        self.numbers = {pid: frozenset(one.number for one in found if one.pid == pid) for pid in self.tracees}
        self.sockets = frozenset(one.stat.st_ino for one in found if one.link.startswith("socket:"))
        self.outside = Outside(tracees, found, self.sockets)
        self.pipes: dict[int, int] = {}
        self.captured_pipes: list[Pipe] = []
        self.refusals: list[Refused] = []

    def tables(self) -> list[Fds]:
        holders = self._holders()
        described = [self._describe(fds) for fds in holders]
        self.outside.ptys.capture_outer()
        self._raise()
        homes = [home for home, _ in described]
        objects = tuple(description for _, description in described)
        self._check_chroot(homes, objects)
        indices = {(fd.pid, fd.number): index for index, fds in enumerate(holders) for fd in fds}
        order = list(self.tracees)
        return [
            Fds(
                process=process,
                pid=tracee.nspid,
                fds=tuple(
                    Fd(one.number, one.cloexec, indices[pid, one.number])
                    for one in self.found
                    if one.pid == pid
                ),
                descriptions=objects,
                homes=tuple(order.index(home.pid) for home in homes),
                pipes=tuple(self.captured_pipes),
                ptys=tuple(self.outside.ptys.captured),
                cwd=tracee.process.cwd(),
                locks=self._locks(pid, homes, holders),
                firewall=self.firewall.table if self.firewall and self.firewall.lasting else "",
            )
            for process, (pid, tracee) in enumerate(self.tracees.items())
        ]

    def _holders(self) -> list[list[Descriptor]]:
        """The fds of each description, those that become stdio each for itself."""
        known = Descriptions()
        holders: list[list[Descriptor]] = []
        for descriptor in self.found:
            shareable = not self.outside.is_stdio(descriptor)
            index = known.find(descriptor) if shareable else None
            if index is None:
                if shareable:
                    known.add(descriptor, len(holders))
                holders.append([descriptor])
            else:
                holders[index].append(descriptor)
        return holders

    def _describe(self, fds: list[Descriptor]) -> tuple[Descriptor, Description]:
        """The description, by the first of its fds that can tell: an epoll instance knows its files by the
        numbers that they had in the process which added them.
        """
        refusals: list[Refused] = []
        for descriptor in _one_each(fds):
            try:
                state = self._object(descriptor)
                return descriptor, Description(descriptor.number, state, self._owner(descriptor))
            except Refused as refusal:
                refusals.append(refusal)
        self.refusals.append(refusals[0])
        return fds[0], Description(fds[0].number, Stdio("stdin", ""), None)

    def _raise(self) -> None:
        if self.refusals:
            causes = dict.fromkeys(refusal.cause for refusal in self.refusals)
            raise Refused("; ".join(causes), next((r.hint for r in self.refusals if r.hint), ""))

    def _object(self, descriptor: Descriptor) -> Object:
        tracee = self.tracees[descriptor.pid]
        if self.outside.is_stdio(descriptor):
            return stdio.capture(descriptor, self.outside.streams(descriptor.pid))
        if self.outside.ptys.has(descriptor):
            return self.outside.ptys.capture(descriptor)
        if descriptor.is_fifo and not descriptor.flags & os.O_PATH:
            return self._pipe_end(descriptor)
        if descriptor.link.startswith("socket:"):
            self.outside.refuse_shared(descriptor, "socket")
            return sockets.capture(
                tracee, descriptor, self.sockets, tcp_close=self.tcp_close, firewall=self.firewall
            )
        if descriptor.link == pidfds.LINK:
            return pidfds.capture(self.tracees, descriptor)
        if descriptor.is_anonymous:
            return anonymous.capture(tracee, descriptor, self.numbers[descriptor.pid], self.outside)
        self.outside.refuse_shared(descriptor, descriptor.link)
        return files.capture(descriptor)

    def _pipe_end(self, descriptor: Descriptor) -> PipeEnd:
        self.outside.refuse_shared(
            descriptor, "pipe" if descriptor.is_anonymous else f"FIFO {descriptor.link}"
        )
        inode = descriptor.stat.st_ino
        if inode not in self.pipes:
            self.pipes[inode] = len(self.captured_pipes)
            self.captured_pipes.append(pipes.capture(self.tracees, self._ends(descriptor)))
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

    def _locks(
        self, pid: int, homes: Sequence[Descriptor], holders: Sequence[Sequence[Descriptor]]
    ) -> tuple[tuple[int, Lock], ...]:
        found: list[tuple[int, Lock]] = []
        for home, fds in zip(homes, holders, strict=True):
            own = next((one for one in fds if one.pid == pid), None)
            if own is not None and not self.outside.is_stdio(own):
                found += (
                    (own.number, lock) for lock in locks.capture(own) if lock.kind == "POSIX" or own is home
                )
        return tuple(found)

    def _owner(self, descriptor: Descriptor) -> Owner | None:
        if descriptor.flags & os.O_PATH or self.outside.is_stdio(descriptor):
            return None
        with copied(self.tracees[descriptor.pid], descriptor.number) as copy:
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
            for thread in (thread for tracee in self.tracees.values() for thread in tracee.threads):
                if thread.tid == pid:
                    return thread.nstid
        elif pid in self.tracees:
            tracee = self.tracees[pid]
            if kind != _F_OWNER_PGRP or tracee.process.stat.pgrp == pid:
                return tracee.nspid
        raise descriptor.refused(
            f"signals of {descriptor.link} go to process {pid} (F_SETOWN)", "take that back first"
        )

    def _check_chroot(self, homes: Sequence[Descriptor], descriptions: Sequence[Description]) -> None:
        for home, one in zip(homes, descriptions, strict=True):
            chrooted = self.tracees[home.pid].process.root() != "/"
            if chrooted and isinstance(one.object, UnixSocket) and one.object.file:
                raise Refused(
                    "a unix socket bound to a path inside a chroot cannot be checkpointed", "close it first"
                )


def _one_each(fds: Sequence[Descriptor]) -> Iterator[Descriptor]:
    """The first fd of each process."""
    yield from {one.pid: one for one in reversed(fds)}.values()


def carried(table: Fds) -> Iterator[Content]:
    """The open files without a name, whose bytes travel in the image."""
    for fd in table.fds:
        state = _object(table, fd)
        if isinstance(state, File) and state.content is not None and table.is_home(fd):
            yield state.content


def lent(tables: Sequence[Fds]) -> list[int]:
    """The descriptions that a process has to open by itself (contents.emit_open), and others have too."""
    several = Counter(index for table in tables for index in {fd.description for fd in table.fds})
    found = tables[0].descriptions
    return [index for index, count in several.items() if count > 1 and _is_home_made(found[index].object)]


def _is_home_made(state: Object) -> bool:
    if isinstance(state, PtyEnd):
        return state.end == ptys.TTY
    if isinstance(state, PidFd):
        return True
    return isinstance(state, File) and state.content is not None


def emit_open(tables: Sequence[Fds], images: Sequence[Image]) -> dict[int, Slot]:
    """Opens the descriptions of all the tree, in the launcher where it can be done there; a slot for each.

    Those that one process has opened for several go by numbers below fd_base, where no fd of the program is
    yet.
    """
    slots = _Emit(tables[0], images).open_all()
    numbers = {index: images[0].fd_base - 2 - k for k, index in enumerate(lent(tables))}
    if numbers:
        _emit_lend(tables, numbers, slots, images)
    return slots


def _emit_lend(
    tables: Sequence[Fds], numbers: dict[int, int], slots: dict[int, Slot], images: Sequence[Image]
) -> None:
    for table, image in zip(tables, images, strict=True):
        for index, number in numbers.items():
            if table.homes[index] == table.process:
                image.main.syscall(NR.dup3, slots[index], number, os.O_CLOEXEC)
        image.main.add(STAGE.lent)
        image.main.wait(STAGE.lent, len(images))
        for index in sorted({fd.description for fd in table.fds} & numbers.keys()):
            home = tables[table.homes[index]]
            if home is not table:
                with image.about(_about(table, table.descriptions[index].number, index)):
                    image.own["description", index] = _emit_borrow(home.pid, numbers[index], image)
        image.main.add(STAGE.borrowed)
        image.main.wait(STAGE.borrowed, len(images))


def _emit_borrow(pid: int, number: int, image: Image) -> Slot:
    pidfd = image.main.call(NR.pidfd_open, pid, 0)
    fd = image.main.call(NR.pidfd_getfd, pidfd, number, 0)
    image.main.syscall(NR.close, pidfd)
    return Opener(image, image.main).lift(fd)


def emit(table: Fds, slots: dict[int, Slot], image: Image) -> None:
    """Takes what the launcher has opened to its numbers in the process."""
    main = image.main
    main.syscall(NR.close_range, 0, image.fd_base - 1, 0)
    for fd in table.fds:
        with image.about(_about(table, fd.number, fd.description)):
            flags = os.O_CLOEXEC if fd.cloexec else 0
            slot = image.own.get(("description", fd.description), slots[fd.description])
            main.syscall(NR.dup3, slot, fd.number, flags)
    _emit_close_above(image)
    for number, lock in table.locks:
        state = next(_object(table, fd) for fd in table.fds if fd.number == number)
        locks.emit(lock, number, state.path if isinstance(state, File) else state.kind, image)
    _emit_names(table, image)
    _emit_owners(table, image)
    outside = frozenset(fd.number for fd in table.fds if isinstance(_object(table, fd), Stdio))
    for number, epoll in _first_numbers(table, Epoll):
        epolls.emit_entries(epoll, number, image, outside)


def emit_watches(table: Fds, image: Image) -> None:
    """When all is open that this process opens: what tells of that, or stands in its way, comes after it."""
    if not any(isinstance(one.object, Inotify) for one in table.descriptions):
        return
    if image.processes > 1:
        # The second meeting there: a counter goes on.
        image.main.add(STAGE.named)
        image.main.wait(STAGE.named, 2 * image.processes)
    for number, state in _first_numbers(table, Inotify):
        inotify.emit_watches(state, number, image)


def emit_resume(table: Fds, image: Image) -> None:
    """Before credentials, and after all else that may fail, in any process: TCP connections speak again."""
    if not any(isinstance(one.object, InetSocket) and one.object.connection for one in table.descriptions):
        return
    image.main.add(STAGE.settled)
    if table.process == 0:
        image.main.wait(STAGE.settled, image.processes)
        tcp.emit_unblock(table.firewall, image)
        image.main.add(STAGE.unblocked)
    image.main.wait(STAGE.unblocked)
    for number, state in _first_numbers(table, InetSocket):
        inet.emit_resume(state, number, image)


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
    if isinstance(state, PtyEnd):
        return f"fd {number}: {state.end} of {table.ptys[state.pty]}"
    return f"fd {number}: {state.kind}"


def _emit_close_above(image: Image) -> None:
    # The channel's number is known to the launcher only; as the first one it leaves an empty range before it.
    main = image.main
    main.syscall(NR.close_range, image.fd_base, SLOT.channel + -1, 0, expect=ok_or(errno.EINVAL))
    main.syscall(NR.close_range, SLOT.channel + 1, _ALL, 0)


def _homed(table: Fds) -> list[Fd]:
    """The lowest fd of each description whose home this process is."""
    return list({fd.description: fd for fd in reversed(table.fds) if table.is_home(fd)}.values())


def _first_numbers(table: Fds, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
    """The lowest fd of each description of a kind whose home this process is, with its object."""
    found = ((fd.number, _object(table, fd)) for fd in sorted(_homed(table), key=lambda fd: fd.number))
    return [(number, state) for number, state in found if isinstance(state, kind)]


def _emit_names(table: Fds, image: Image) -> None:
    named = _first_numbers(table, UnixSocket)
    if any(state.local or state.remote for _, state in named):
        with image.about(f"working directory {table.cwd}"):
            image.main.syscall(NR.chdir, image.string(table.cwd))
    for number, state in named:
        unixsockets.emit_names(state, number, image)
    if image.processes > 1:
        # What one process connects to may be bound by another.
        image.main.add(STAGE.named)
        image.main.wait(STAGE.named, image.processes)
    for number, state in named:
        unixsockets.emit_connect(state, number, image)


def _emit_owners(table: Fds, image: Image) -> None:
    for fd in _homed(table):
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

    def __init__(self, table: Fds, images: Sequence[Image]) -> None:
        self.table = table
        self.images = images
        self.image = images[0]
        self.opener = Opener(self.image)
        self.opened: dict[int, Opened] = {}
        self.slots: dict[int, Slot] = {}

    def open_all(self) -> dict[int, Slot]:
        # A connection may be bound beside a listening socket, but not the other way round.
        for index in sorted(range(len(self.table.descriptions)), key=self._is_connection):
            if index not in self.slots:
                self.slots[index] = self._open(index)
        ptys.emit_finish(self.table.ptys, self.image, self.opener)
        for index, opened in self.opened.items():
            pipes.finish(self.table.pipes[index], opened, self.opener)
        return self.slots

    def _is_connection(self, index: int) -> bool:
        state = self.table.descriptions[index].object
        return isinstance(state, InetSocket) and state.connection is not None

    def _open(self, index: int) -> Slot:
        state = self.table.descriptions[index].object
        about = f"fd {self.table.descriptions[index].number}"
        if isinstance(state, InetSocket):
            return inet.emit(state, self.image, self.opener, about)
        if isinstance(state, NetlinkSocket):
            return netlink.emit(state, self.image, self.opener, about)
        if isinstance(state, UnixSocket):
            return self._open_unix(index, state, about)
        hint = FILE_HINT if isinstance(state, File) else ""
        with self.image.about(_about(self.table, self.table.descriptions[index].number, index), hint):
            if isinstance(state, File):
                return files.emit(state, self.images[self.table.homes[index]], self.opener)
            if isinstance(state, PipeEnd):
                return self._open_pipe(state)
            if isinstance(state, PtyEnd):
                return self._open_pty(state, self.images[self.table.homes[index]])
            if isinstance(state, PidFd):
                return pidfds.emit(state, self.images[self.table.homes[index]])
            if isinstance(state, HungUp):
                return ptys.emit_hung_up(state, self.image, self.opener)
            if isinstance(state, Stdio):
                return stdio.emit(state)
            return anonymous.emit(state, self.image, self.opener)

    def _open_pipe(self, end: PipeEnd) -> Slot:
        pipe = self.table.pipes[end.pipe]
        if end.pipe not in self.opened:
            self.opened[end.pipe] = pipes.emit(pipe, self.image, self.opener)
        return pipes.emit_end(end, pipe, self.opened[end.pipe], self.image, self.opener)

    def _open_pty(self, end: PtyEnd, home: Image) -> Slot:
        if end.end == ptys.TTY:
            return ptys.emit_tty(end, home)
        return ptys.emit_end(end, self.table.ptys[end.pty], self.image, self.opener)

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
