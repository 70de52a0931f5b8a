# SPDX-License-Identifier: Apache-2.0
"""The table of open fds: which number is which open file description, and all of them put back.

The launcher opens each description at or above `fd_base`; the restored process closes all below, takes each
to its numbers, and closes all above but the channel, before it gives sockets their names and fills epoll
instances.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from restorer.errors import Refused
from restorer.program import SLOT, STAGE, Image, Slot, ok_or
from restorer.state import (
    anonymous,
    choices,
    descriptors,
    epolls,
    eventfds,
    files,
    inet,
    inotify,
    locks,
    mqueues,
    netlink,
    owners,
    pidfds,
    pipes,
    procfiles,
    ptys,
    sockets,
    stdio,
    tcp,
    terminals,
    timerfds,
    unixsockets,
)
from restorer.state.anonymous import Anonymous
from restorer.state.choices import Choices
from restorer.state.contents import Content
from restorer.state.descriptors import Descriptor
from restorer.state.epolls import Epoll
from restorer.state.files import File
from restorer.state.inet import InetSocket
from restorer.state.inflight import InFlight
from restorer.state.inotify import Inotify
from restorer.state.locks import Lock
from restorer.state.mqueues import Mqueue, MqueueEnd, Mqueues
from restorer.state.netlink import NetlinkSocket
from restorer.state.opening import FILE_HINT, Opener
from restorer.state.outside import Outside
from restorer.state.owners import Owner
from restorer.state.pidfds import PidFd
from restorer.state.pipes import Opened, Pipe, PipeEnd
from restorer.state.procfiles import ProcFile
from restorer.state.ptys import HungUp, Pty, PtyEnd
from restorer.state.sharing import Descriptions
from restorer.state.stdio import Stdio
from restorer.state.timerfds import TimerFd
from restorer.state.unixlinks import Surroundings
from restorer.state.unixopen import Place, UnixSockets
from restorer.state.unixqueues import Message
from restorer.state.unixsockets import UnixSocket
from restorer.syscalls import NR
from restorer.tracee import Tracee

Object: TypeAlias = (
    File
    | PipeEnd
    | PtyEnd
    | HungUp
    | MqueueEnd
    | PidFd
    | ProcFile
    | Anonymous
    | InetSocket
    | NetlinkSocket
    | UnixSocket
    | Stdio
)

_Kind = TypeVar("_Kind", Epoll, InetSocket, Inotify, TimerFd, UnixSocket)

_ALL = 0xFFFFFFFF


@dataclass(frozen=True)
class Description:
    """An open file description; `number` is the lowest of its fds in its home."""

    number: int
    object: Object
    owner: Owner | None


@dataclass(frozen=True)
class Fd:
    """One number of the table; `description` is an index. `passing`: only for the time of a restore, since it
    is in flight, and the first process, which sends it, does not have it.
    """

    number: int
    cloexec: bool
    description: int
    passing: bool = False


@dataclass(frozen=True)
class Fds:
    """The table of one process, whose ID is `pid` as the program knows it; descriptions, pipes, queues and
    ptys are those of all its tree. `homes` has for each description the index of the process that is to put
    back what only a holder can. `cwd` is what relative names of unix sockets start from. `locks` are (fd,
    lock): POSIX locks are of a process, others of a description. `firewall` is the nftables table that blocks
    the tree's TCP connections until a restore, "" for none.
    """

    process: int
    pid: int
    fds: tuple[Fd, ...]
    descriptions: tuple[Description, ...]
    homes: tuple[int, ...]
    pipes: tuple[Pipe, ...]
    mqueues: tuple[Mqueue, ...]
    ptys: tuple[Pty, ...]
    cwd: str
    locks: tuple[tuple[int, Lock], ...]
    firewall: str

    def is_home(self, fd: Fd) -> bool:
        """Whether this process is the one to put back what belongs to the description."""
        return self.homes[fd.description] == self.process


def capture(tracees: Sequence[Tracee], chosen: Choices = choices.NONE) -> list[Fds]:
    """Reads all fds of a tree, one table for each process; nothing in the targets changes. Raises Refused
    naming every fd that cannot be restored. `chosen` says what becomes of connections that lead outside.
    """
    found = [descriptors.read(tracee.pid, number) for tracee in tracees for number in tracee.process.fds()]
    with InFlight({tracee.pid: tracee for tracee in tracees}, found) as flight:
        return _Capture(tracees, found, flight, chosen).tables()


def reset_connections(tracees: Sequence[Tracee], tables: Sequence[Fds]) -> None:
    """Lets the kill that must follow reset the TCP connections of `tables`: their ports are free at once."""
    for tracee, table in zip(tracees, tables, strict=True):
        found = (fd for fd in table.fds if not fd.passing)
        kept = {fd.number for fd in found if isinstance(_object(table, fd), InetSocket)}
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
        flight: InFlight,
        chosen: Choices,
    ) -> None:
        self.tracees = {tracee.pid: tracee for tracee in tracees}
        self.first_free = max((one.number + 1 for one in found), default=0)
        self.found = found = [*found, *flight.descriptors]
        self.flight = flight
        self.choices = chosen
        self.numbers = {pid: frozenset(one.number for one in found if one.pid == pid) for pid in self.tracees}
        self.sockets = frozenset(one.stat.st_ino for one in found if one.link.startswith("socket:"))
        self.outside = Outside(tracees, found, self.sockets)
        self.around = Surroundings(
            self.sockets, ext_unix=chosen.ext_unix, skip_in_flight=chosen.skip_in_flight
        )
        self.pipes: dict[int, int] = {}
        self.captured_pipes: list[Pipe] = []
        self.mqueues = Mqueues(self.tracees)
        self.refusals: list[Refused] = []
        self.holders: list[list[Descriptor]] = []

    def tables(self) -> list[Fds]:
        holders = self.holders = self._holders()
        described = [self._describe(fds) for fds in holders]
        self.outside.ptys.capture_outer()
        self._raise()
        homes = [home for home, _ in described]
        self._check_chroot(homes, [description for _, description in described])
        indices = {(fd.pid, fd.number): index for index, fds in enumerate(holders) for fd in fds}
        passing = self._passing(holders)
        flying = {index: number for index, number in passing.items() if homes[index].in_flight}
        objects = tuple(
            replace(one, number=flying.get(index, one.number), object=self._with_rights(one.object, indices))
            for index, (_, one) in enumerate(described)
        )
        self._raise()
        order = list(self.tracees)
        return [
            Fds(
                process=process,
                pid=tracee.nspid,
                fds=(
                    *(
                        Fd(one.number, one.cloexec, indices[pid, one.number])
                        for one in self.found
                        if one.pid == pid
                    ),
                    *(Fd(number, True, index, True) for index, number in passing.items() if process == 0),
                ),
                descriptions=objects,
                homes=tuple(0 if home.in_flight else order.index(home.pid) for home in homes),
                pipes=tuple(self.captured_pipes),
                mqueues=tuple(self.mqueues.captured),
                ptys=tuple(self.outside.ptys.captured),
                cwd=tracee.process.cwd(),
                locks=(
                    *self._locks(pid, homes, holders),
                    *(self._locks_in_flight(homes, flying) if process == 0 else ()),
                ),
                firewall=self._firewall_table(),
            )
            for process, (pid, tracee) in enumerate(self.tracees.items())
        ]

    def _passing(self, holders: Sequence[Sequence[Descriptor]]) -> dict[int, int]:
        """What the first process needs to send, and does not have: numbers of its own for a while."""
        root = next(iter(self.tracees))
        wanted = [
            index
            for index, fds in enumerate(holders)
            if any(one.in_flight for one in fds) and all(one.pid != root for one in fds)
        ]
        return {index: self.first_free + at for at, index in enumerate(wanted)}

    def _firewall_table(self) -> str:
        firewall = self.choices.firewall
        return firewall.table if firewall and firewall.lasting else ""

    def _with_rights(self, state: Object, indices: dict[tuple[int, int], int]) -> Object:
        """What waits in a unix socket, with the descriptions that it carries."""
        if not isinstance(state, UnixSocket) or not state.queue:
            return state
        here = self.flight.here.pid
        try:
            queue = tuple(
                replace(
                    message,
                    rights=tuple(indices[here, fd] for fd in message.rights),
                    credentials=self._sender_of(message),
                )
                for message in state.queue
            )
        except Refused as refusal:
            self.refusals.append(refusal)
            return state
        return replace(state, queue=queue)

    def _sender_of(self, message: Message) -> tuple[int, int, int] | None:
        if message.credentials is None or not message.credentials[0]:
            return None
        pid, *ids = message.credentials
        if pid not in self.tracees:
            raise Refused(
                f"a unix socket has an unread message with the credentials of process {pid}, which is not in "
                "the tree",
                "try again when it has been read",
            )
        return self.tracees[pid].nspid, ids[0], ids[1]

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
        candidates: list[tuple[int, Descriptor, Description]] = []
        for descriptor in _one_each([one for one in fds if not one.in_flight] or fds):
            try:
                state = self._object(descriptor)
                found = Description(descriptor.number, state, self._owner(descriptor))
            except Refused as refusal:
                refusals.append(refusal)
                continue
            unknown = len(state.elsewhere) if isinstance(state, Epoll) else 0
            if not unknown:
                return descriptor, found
            candidates.append((unknown, descriptor, found))
        if candidates:
            return min(candidates, key=lambda one: one[0])[1:]
        self.refusals.append(refusals[0])
        return fds[0], Description(fds[0].number, Stdio("stdin", ""), None)

    def _find_watched(self, epoll: Descriptor, fd: int, offset: int) -> int | None:
        """The description that an entry of `epoll` watches."""
        for index, fds in enumerate(self.holders):
            if not fds[0].in_flight and epolls.is_target(epoll, fd, offset, fds[0]):
                return index
        return None

    def _check_watched(self, homes: Sequence[Descriptor], found: Sequence[Description]) -> None:
        """What only some processes have cannot be added by another."""
        for home, one in zip(homes, found, strict=True):
            for entry in one.object.elsewhere if isinstance(one.object, Epoll) else ():
                assert entry.elsewhere is not None
                state, fds = found[entry.elsewhere].object, self.holders[entry.elsewhere]
                if isinstance(state, Stdio) or (
                    _is_home_made(state) and home.pid not in {fd.pid for fd in fds}
                ):
                    raise epolls.lost(home, entry.fd)

    def _raise(self) -> None:
        if self.refusals:
            causes = dict.fromkeys(refusal.cause for refusal in self.refusals)
            raise Refused("; ".join(causes), next((r.hint for r in self.refusals if r.hint), ""))

    def _object(self, descriptor: Descriptor) -> Object:
        if descriptor.in_flight:
            self._check_in_flight(descriptor)
        if self.outside.is_stdio(descriptor):
            return stdio.capture(descriptor, self.outside.streams(descriptor.pid))
        if self.outside.ptys.has(descriptor):
            return self.outside.ptys.capture(descriptor)
        if descriptor.is_fifo and not descriptor.flags & os.O_PATH:
            return self._pipe_end(descriptor)
        if descriptor.link.startswith("socket:"):
            self.outside.refuse_shared(descriptor, "socket")
            source, queue = (
                self.flight.sources[descriptor.pid],
                self.flight.queues.get(descriptor.stat.st_ino, ()),
            )
            state = sockets.capture(source, descriptor, self.around, queue, self.choices)
            if descriptor.in_flight and isinstance(state, InetSocket) and state.is_connection:
                raise descriptor.refused(
                    f"{inet.describe(state)} is in no process", "try again when it is received"
                )
            return state
        if descriptor.in_flight and descriptor.is_anonymous:
            return eventfds.capture(descriptor)
        if descriptor.link == pidfds.LINK:
            return pidfds.capture(self.tracees, descriptor)
        if procfiles.is_one(descriptor):
            return procfiles.capture(self.tracees, descriptor)
        if descriptor.is_anonymous:
            tracee = self.tracees[descriptor.pid]
            numbers = self.numbers[descriptor.pid]
            return anonymous.capture(tracee, descriptor, numbers, self.outside, self._find_watched)
        if mqueues.is_one(descriptor):
            return self.mqueues.capture(descriptor)
        self.outside.refuse_shared(descriptor, descriptor.link)
        file = files.capture(descriptor)
        if descriptor.in_flight and file.content is not None:
            # It is read with the memory, as long as the tree is held.
            next(iter(self.tracees.values())).keep(self.flight.release(descriptor.number))
        return file

    def _check_in_flight(self, descriptor: Descriptor) -> None:
        """Raises Refused for kinds that can only be read, or put back, through a process that has them."""
        anonymous_kind = descriptor.is_anonymous and not descriptor.is_fifo
        known = descriptor.link == "anon_inode:[eventfd]" or descriptor.link.startswith("socket:")
        if (
            terminals.is_terminal(descriptor)
            or terminals.is_master(descriptor)
            or mqueues.is_one(descriptor)
            or procfiles.is_one(descriptor)
            or (anonymous_kind and not known)
        ):
            raise descriptor.refused(f"{descriptor.link} is in no process", "try again when it is received")

    def _pipe_end(self, descriptor: Descriptor) -> PipeEnd:
        self.outside.refuse_shared(
            descriptor, "pipe" if descriptor.is_anonymous else f"FIFO {descriptor.link}"
        )
        inode = descriptor.stat.st_ino
        if inode not in self.pipes:
            self.pipes[inode] = len(self.captured_pipes)
            self.captured_pipes.append(pipes.capture(self.flight.sources, self._ends(descriptor)))
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
                taken = [lock for lock in locks.capture(own) if lock.kind == "POSIX" or own is home]
                self._refuse_mapped_lease(own, taken)
                found += ((own.number, lock) for lock in taken)
        return tuple(found)

    def _refuse_mapped_lease(self, descriptor: Descriptor, taken: Sequence[Lock]) -> None:
        """A restored mapping is one more open of the file, which a lease for writing does not bear."""
        if any(lock.kind == "LEASE" and lock.write for lock in taken):
            inode = descriptor.stat.st_ino
            if any(vma.inode == inode for tracee in self.tracees.values() for vma in tracee.vmas):
                what = f"a lease on {descriptor.link}, which is mapped too,"
                raise descriptor.refused(f"{what} cannot be checkpointed", "release it first")

    def _locks_in_flight(
        self, homes: Sequence[Descriptor], flying: dict[int, int]
    ) -> Iterator[tuple[int, Lock]]:
        for index, number in flying.items():
            yield from ((number, lock) for lock in locks.capture(homes[index]))

    def _owner(self, descriptor: Descriptor) -> Owner | None:
        if descriptor.flags & os.O_PATH or self.outside.is_stdio(descriptor):
            return None
        return owners.capture(self.tracees, self.flight.sources[descriptor.pid], descriptor)

    def _check_chroot(self, homes: Sequence[Descriptor], descriptions: Sequence[Description]) -> None:
        for home, one in zip(homes, descriptions, strict=True):
            chrooted = not home.in_flight and self.tracees[home.pid].process.root() != "/"
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


def first_free(tables: Sequence[Fds]) -> int:
    """The number after the last fd of any process, those that only epoll entries know among them."""
    used = [fd.number for table in tables for fd in table.fds]
    for one in tables[0].descriptions:
        if isinstance(one.object, Epoll):
            used += (entry.fd for entry in one.object.elsewhere)
    return max(used, default=-1) + 1


def _is_home_made(state: Object) -> bool:
    if isinstance(state, PtyEnd):
        return state.end == ptys.TTY
    if isinstance(state, PidFd | ProcFile):
        return True
    return isinstance(state, File) and state.content is not None


def emit_open(tables: Sequence[Fds], images: Sequence[Image]) -> dict[int, Slot]:
    """Opens the descriptions of all the tree, in the launcher where it can be done there; a slot for each.

    Those that one process has opened for several go by numbers below fd_base, where no fd of the program is
    yet.
    """
    slots, unix = _Emit(tables, images).open_all()
    numbers = {index: images[0].fd_base - 2 - k for k, index in enumerate(lent(tables))}
    if numbers:
        _emit_lend(tables, numbers, slots, images)
    own = images[0].own
    program = images[0].main if unix.in_process else images[0].shared
    unix.finish(program, lambda index: own.get(("description", index), slots[index]))
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

    def slot_of(description: int) -> Slot:
        return image.own.get(("description", description), slots[description])

    own = {fd.number: slot_of(fd.description) for fd in table.fds}
    fired = {
        number: epolls.emit_early(epoll, own[number], own, slot_of, image)
        for number, epoll in _first_numbers(table, Epoll)
    }
    for fd in table.fds:
        with image.about(_about(table, fd.number, fd.description)):
            main.syscall(NR.dup3, own[fd.number], fd.number, os.O_CLOEXEC if fd.cloexec else 0)
    _emit_close_above(image)
    _emit_owners(table, image)
    for number, timer in _first_numbers(table, TimerFd):
        with image.about(f"fd {number}: timerfd"):
            timerfds.emit_early(timer, number, image)
    passing = {fd.number for fd in table.fds if fd.passing}
    _emit_locks(table, [one for one in table.locks if one[0] in passing], image)
    # Closing a file gives up the process's POSIX locks on it, whatever fd they were taken by (fcntl(2)).
    for fd in table.fds:
        if fd.passing and isinstance(_object(table, fd), File):
            main.syscall(NR.close, fd.number)
    early = [one for one in table.locks if one[0] not in passing and one[1].kind != "LEASE"]
    _emit_locks(table, early, image)
    outside = frozenset(fd.number for fd in table.fds if isinstance(_object(table, fd), Stdio))
    for number, epoll in _first_numbers(table, Epoll):
        epolls.emit_entries(epoll, number, fired[number], image, outside)


def _emit_locks(table: Fds, wanted: Sequence[tuple[int, Lock]], image: Image) -> None:
    for number, lock in wanted:
        state = next(_object(table, fd) for fd in table.fds if fd.number == number)
        locks.emit(lock, number, state.path if isinstance(state, File) else state.kind, image)


def emit_watches(table: Fds, image: Image) -> None:
    """When all is open that this process opens: what an open would be told to, or would break."""
    if image.processes > 1:
        image.main.add(STAGE.opened)
        image.main.wait(STAGE.opened, image.processes)
    passing = {fd.number for fd in table.fds if fd.passing}
    late = [one for one in table.locks if one[0] not in passing and one[1].kind == "LEASE"]
    _emit_locks(table, late, image)
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
    """After credentials, which unix sockets tell their peers."""
    for number, state in _first_numbers(table, UnixSocket):
        with image.about(f"fd {number}: {unixsockets.describe(state)}"):
            unixsockets.emit_late(state, number, image)
    for number, inet_socket in _first_numbers(table, InetSocket):
        inet.emit_late(inet_socket, number, image)
    for number, timer in _first_numbers(table, TimerFd):
        with image.about(f"fd {number}: timerfd"):
            timerfds.emit_late(timer, number, image)
    for fd in table.fds:
        if fd.passing and not isinstance(_object(table, fd), File):
            image.main.syscall(NR.close, fd.number)


def _object(table: Fds, fd: Fd) -> Object:
    return table.descriptions[fd.description].object


def _about(table: Fds, number: int, description: int) -> str:
    state = table.descriptions[description].object
    if isinstance(state, File | ProcFile):
        return f"fd {number}: {state.path}"
    if isinstance(state, Stdio):
        return f"fd {number}: {state.stream}"
    if isinstance(state, MqueueEnd):
        return f"fd {number}: {table.mqueues[state.queue]}"
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


def _emit_owners(table: Fds, image: Image) -> None:
    for fd in _homed(table):
        owner = table.descriptions[fd.description].owner
        if owner is not None:
            with image.about(f"fd {fd.number}: owner of its signals"):
                owners.emit(owner, fd.number, getattr(_object(table, fd), "flags", 0), image)


class _Emit:
    """Opens descriptions in the launcher; `slots` by index of the description."""

    def __init__(self, tables: Sequence[Fds], images: Sequence[Image]) -> None:
        self.table = tables[0]
        self.tables = tables
        self.images = images
        self.image = images[0]
        self.opener = Opener(self.image)
        self.opened: dict[int, Opened] = {}
        self.queues: dict[int, mqueues.Opened] = {}
        self.slots: dict[int, Slot] = {}

    def open_all(self) -> tuple[dict[int, Slot], UnixSockets]:
        """The slots, and the unix sockets, which are still to be filled."""
        unix = UnixSockets(self._unix_places(), self.image, self.opener)
        self.slots |= unix.open()
        # A connection may be bound beside a listening socket, but not the other way round.
        for index in sorted(range(len(self.table.descriptions)), key=self._is_connection):
            if index not in self.slots:
                self.slots[index] = self._open(index)
        ptys.emit_finish(self.table.ptys, self.image, self.opener)
        for index, opened in self.opened.items():
            pipes.finish(self.table.pipes[index], opened, self.opener)
        for index, queue in self.queues.items():
            mqueues.finish(self.table.mqueues[index], queue, self.image, self.opener)
        return self.slots, unix

    def _unix_places(self) -> dict[int, Place]:
        places = {}
        for index, one in enumerate(self.table.descriptions):
            if isinstance(one.object, UnixSocket):
                cwd = self.tables[self.table.homes[index]].cwd
                places[index] = Place(one.number, cwd, one.object)
        return places

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
        assert not isinstance(state, UnixSocket)
        hint = FILE_HINT if isinstance(state, File) else ""
        with self.image.about(_about(self.table, self.table.descriptions[index].number, index), hint):
            if isinstance(state, File):
                return files.emit(state, self.images[self.table.homes[index]], self.opener)
            if isinstance(state, PipeEnd):
                return self._open_pipe(state)
            if isinstance(state, PtyEnd):
                return self._open_pty(state, self.images[self.table.homes[index]])
            if isinstance(state, MqueueEnd):
                return self._open_queue(state)
            if isinstance(state, PidFd):
                return pidfds.emit(state, self.images[self.table.homes[index]])
            if isinstance(state, ProcFile):
                return procfiles.emit(state, self.images[self.table.homes[index]])
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

    def _open_queue(self, end: MqueueEnd) -> Slot:
        if end.queue not in self.queues:
            self.queues[end.queue] = mqueues.emit(self.table.mqueues[end.queue], self.image, self.opener)
        return mqueues.emit_end(end, self.queues[end.queue], self.opener)

    def _open_pty(self, end: PtyEnd, home: Image) -> Slot:
        if end.end == ptys.TTY:
            return ptys.emit_tty(end, home)
        return ptys.emit_end(end, self.table.ptys[end.pty], self.image, self.opener)
