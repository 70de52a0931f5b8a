# SPDX-License-Identifier: Apache-2.0
"""The tables of open fds, read from a frozen tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from restorer.errors import Refused
from restorer.state import (
    anonymous,
    choices,
    descriptors,
    epolls,
    eventfds,
    files,
    inet,
    inodeowners,
    locks,
    mqueues,
    owners,
    pidfds,
    pipes,
    procfiles,
    shmfiles,
    sockets,
    stdio,
    tables,
    terminals,
)
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor
from restorer.state.epolls import Epoll
from restorer.state.fdtable import Description, Fd, Fds, Object, first_numbers, is_home_made, object_of
from restorer.state.inet import InetSocket
from restorer.state.inflight import InFlight
from restorer.state.locks import Lock
from restorer.state.mqueues import Mqueues
from restorer.state.outside import Outside
from restorer.state.owners import Owner
from restorer.state.pipes import Pipe, PipeEnd
from restorer.state.sharing import Descriptions
from restorer.state.stdio import Stdio
from restorer.state.tables import Tables
from restorer.state.unixlinks import Surroundings
from restorer.state.unixqueues import Message
from restorer.state.unixsockets import UnixSocket
from restorer.tracee import Tracee


def capture(
    tracees: Sequence[Tracee],
    chosen: Choices = choices.NONE,
    shared: Tables | None = None,
    brought: frozenset[shmfiles.Id] = frozenset(),
) -> list[Fds]:
    """Reads all fds of a tree, one table for each process; nothing in the targets changes. Raises Refused
    naming every fd that cannot be restored. `chosen` says what becomes of connections that lead outside,
    `shared` which processes have one table, `brought` which files with a name travel in the image.
    """
    shared = shared or tables.apart(len(tracees))
    each = [tracee for index, tracee in enumerate(tracees) if shared.files[index] == index]
    found = [descriptors.read(tracee.pid, number) for tracee in each for number in tracee.process.fds()]
    with InFlight({tracee.pid: tracee for tracee in tracees}, found) as flight:
        return _Capture(tracees, found, flight, chosen, shared, brought).tables()


def reset_connections(tracees: Sequence[Tracee], found: Sequence[Fds]) -> None:
    """Lets the kill that must follow reset the TCP connections `found`: their ports are free at once."""
    for tracee, table in zip(tracees, found, strict=True):
        own = (fd for fd in table.fds if not fd.passing)
        kept = {fd.number for fd in own if isinstance(object_of(table, fd), InetSocket)}
        sockets.reset_connections(tracee, [descriptors.read(tracee.pid, number) for number in sorted(kept)])


def close_connections_quietly(tracees: Sequence[Tracee], found: Sequence[Fds]) -> None:
    """Lets the kill that must follow say nothing to the peers of established TCP connections."""
    for tracee, table in zip(tracees, found, strict=True):
        for number, state in first_numbers(table, InetSocket):
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
        shared: Tables,
        brought: frozenset[shmfiles.Id],
    ) -> None:
        self.tracees = {tracee.pid: tracee for tracee in tracees}
        self.shared = shared
        self.brought = brought
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
        indices = {(fd.pid, fd.number): index for index, fds in enumerate(holders) for fd in fds}
        passing = self._passing(holders)
        flying = {index: number for index, number in passing.items() if homes[index].in_flight}
        objects = tuple(
            replace(one, number=flying.get(index, one.number), object=self._with_rights(one.object, indices))
            for index, (_, one) in enumerate(described)
        )
        self._raise()
        order = list(self.tracees)
        firsts = [order[first] for first in self.shared.files]
        return [
            Fds(
                process=process,
                pid=tracee.nspid,
                fds=(
                    *(
                        Fd(one.number, one.cloexec, indices[one.pid, one.number])
                        for one in self.found
                        if one.pid == firsts[process]
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
                    *self._locks(process, homes, holders),
                    *(self._locks_in_flight(homes, flying) if process == 0 else ()),
                ),
                firewall=self._firewall_table(),
                sharers=self.shared.sharers(process),
            )
            for process, tracee in enumerate(self.tracees.values())
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
                inode_owner = None if isinstance(state, Stdio) else inodeowners.capture(descriptor)
                found = Description(descriptor.number, state, self._owner(descriptor), inode_owner)
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
                    is_home_made(state) and home.pid not in {fd.pid for fd in fds}
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
            around = self.outside, self._find_watched, self.choices
            return anonymous.capture(tracee, descriptor, numbers, *around)
        if mqueues.is_one(descriptor):
            return self.mqueues.capture(descriptor)
        self.outside.refuse_shared(descriptor, descriptor.link)
        file = files.capture(descriptor)
        if (descriptor.stat.st_dev, descriptor.stat.st_ino) in self.brought:
            file = replace(file, size_bytes=None, mtime=None)
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
        self, process: int, homes: Sequence[Descriptor], holders: Sequence[Sequence[Descriptor]]
    ) -> tuple[tuple[int, Lock], ...]:
        """Those that are for this process to take: of POSIX locks of a table, what it has taken itself."""
        order = list(self.tracees)
        pid, first = order[process], order[self.shared.files[process]]
        others = {order[index] for index in self.shared.sharers(process)} - {first}
        found: list[tuple[int, Lock]] = []
        for home, fds in zip(homes, holders, strict=True):
            own = next((one for one in fds if one.pid == first), None)
            if own is not None and not self.outside.is_stdio(own):
                taken = [lock for lock in locks.capture(own) if lock.kind == "POSIX" or own is home]
                self._refuse_mapped_lease(own, taken)
                mine = (lock for lock in taken if pid == (lock.taker if lock.taker in others else first))
                found += ((own.number, lock) for lock in mine)
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


def _one_each(fds: Sequence[Descriptor]) -> Iterator[Descriptor]:
    """The first fd of each process."""
    yield from {one.pid: one for one in reversed(fds)}.values()
