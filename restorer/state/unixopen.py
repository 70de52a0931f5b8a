# SPDX-License-Identifier: Apache-2.0
"""All unix sockets of an image, made by the launcher: names first, then connections, then what waits in them.

Whoever is accepted is so by the listening socket of the image, or by one that has its name for a moment. What
waits can be sent by the launcher, unless it carries open files or PIDs: then the first process of the tree
sends it, before it lets go of what the launcher has opened.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable, Mapping

from restorer.program import Image, Program, Slot
from restorer.record import dataclass
from restorer.state import sockopts, unixnames, unixqueues
from restorer.state.opening import AT_FDCWD, Opener
from restorer.state.sockopts import SO_PEEK_OFF, SOL_SOCKET
from restorer.state.unixnames import Start
from restorer.state.unixsockets import UnixSocket, describe
from restorer.syscalls import NR

# SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS: what is sent while they are set is another message.
# Filters may be younger than what they would drop.
_LATE_OPTIONS = frozenset((16, 34, 76, 83, sockopts.SO_ATTACH_FILTER, sockopts.SO_LOCK_FILTER))
_BACKLOG = 4096


@dataclass(frozen=True)
class Place:
    """One socket of the image: `number` is an fd of it, `cwd` where relative names start from."""

    number: int
    cwd: str
    state: UnixSocket

    @property
    def about(self) -> str:
        """For messages."""
        return f"fd {self.number}: {describe(self.state)}"

    @property
    def root(self) -> str:
        """Where its name starts from if it is absolute."""
        return self.state.file.root if self.state.file else "/"


class UnixSockets:
    """Those of a tree, by index of their description."""

    def __init__(self, places: Mapping[int, Place], image: Image, opener: Opener) -> None:
        self.places = places
        self.image = image
        self.opener = opener
        self.slots: dict[int, Slot] = {}
        # The other ends of connections whose peer has gone.
        self._ends: dict[int, Slot] = {}
        self._home: unixnames.Home | None = None
        self._index = {place.state.inode: index for index, place in places.items()}

    @property
    def in_process(self) -> bool:
        """Whether what waits can be sent by a process of the tree only."""
        return any(unixqueues.needs_processes(place.state.queue) for place in self.places.values())

    def open(self) -> dict[int, Slot]:
        """A slot for each; queues and datagram connections follow in `finish`."""
        if any(place.root != "/" for place in self.places.values()):
            self._home = unixnames.emit_home(self.opener)
        for index, place in self.places.items():
            if place.state.state != "pair":
                self._open_alone(index, place)
        for index, place in self.places.items():
            if index not in self.slots:
                self._open_pair(index, place)
        for index, place in self.places.items():
            if place.state.state == "pair":
                self._bind(index, place)
        self._open_waiting()
        return self.slots

    def _open_alone(self, index: int, place: Place) -> None:
        state = place.state
        with self.image.about(place.about):
            self.slots[index] = self._socket(state)
        self._options(index, place)
        self._bind(index, place)
        if state.state == "listening":
            self.image.shared.syscall(NR.listen, self.slots[index], _BACKLOG)

    def start(self, place: Place) -> Start:
        """Where its name is found."""
        return Start(place.cwd, place.root, self._home if place.root != "/" else None)

    def _socket(self, state: UnixSocket) -> Slot:
        return self.opener.open(NR.socket, socket.AF_UNIX, state.type | socket.SOCK_CLOEXEC, 0)

    def _options(self, index: int, place: Place) -> None:
        early = tuple(one for one in place.state.options if not _is_late(one))
        sockopts.emit(early, self.slots[index], self.image, f"fd {place.number}")

    def _bind(self, index: int, place: Place) -> None:
        name = place.state.own_name
        if name:
            shown = unixnames.shown(name)
            hint = f"stop whoever listens on {shown}, and take away what is there"
            with self.image.about(place.about, hint):
                unixnames.emit_bind(name, place.state.file, self.start(place), self.slots[index], self.opener)

    def _open_pair(self, index: int, place: Place) -> None:
        peer = self._index.get(place.state.peer)
        other = None if peer is None else self.places[peer].state
        with self.image.about(place.about, "its name must be free"):
            if place.state.type != socket.SOCK_DGRAM and (place.state.local or place.state.remote):
                ends = self._connected(place, other)
            else:
                kind = place.state.type | socket.SOCK_CLOEXEC
                ends = self.opener.open_pair(NR.socketpair, socket.AF_UNIX, kind, 0)
        for which, end in zip((index, peer), ends, strict=True):
            if which is None:
                self._ends[index] = end
            else:
                self.slots[which] = end
                self._options(which, self.places[which])

    def _connected(self, place: Place, other: UnixSocket | None) -> tuple[Slot, Slot]:
        """The socket itself, and the one it is connected to."""
        server = place.state.server
        name = place.state.local if server else place.state.remote
        client = self._socket(place.state)
        listener = self._listener(place.state.type, name)
        if listener is None:
            accepted = self._accepted_alone(name, place, client)
        else:
            slot, at = listener
            with unixnames.folder(at.state.address, self.start(at), self.opener):
                unixnames.emit_address(NR.connect, client, at.state.address, self.image, self.image.shared)
            accepted = self.opener.open(NR.accept4, slot, 0, 0, socket.SOCK_CLOEXEC)
        return (accepted, client) if server else (client, accepted)

    def _listener(self, kind: int, name: bytes) -> tuple[Slot, Place] | None:
        for index, place in self.places.items():
            state = place.state
            if state.state == "listening" and (state.type, state.local) == (kind, name):
                return self.slots[index], place
        return None

    def _accepted_alone(self, name: bytes, place: Place, client: Slot) -> Slot:
        """By a listening socket of that name which is there for this only."""
        image, program = self.image, self.image.shared
        listener = self._socket(place.state)
        with unixnames.folder(name, Start(place.cwd), self.opener):
            unixnames.emit_address(NR.bind, listener, name, image, program)
            program.syscall(NR.listen, listener, 1)
            unixnames.emit_address(NR.connect, client, name, image, program)
            if unixnames.is_path(name):
                program.syscall(NR.unlinkat, AT_FDCWD, image.string(name), 0)
        accepted = self.opener.open(NR.accept4, listener, 0, 0, socket.SOCK_CLOEXEC)
        self.opener.close(listener)
        return accepted

    def _open_waiting(self) -> None:
        """Those in a queue of connections, in their order."""
        waiting = [(p.state.place, index) for index, p in self.places.items() if p.state.state == "waiting"]
        for _, index in sorted(waiting):
            place = self.places[index]
            listener = self.places[self._index[place.state.peer]]
            name = listener.state.address
            with self.image.about(place.about), unixnames.folder(name, self.start(listener), self.opener):
                unixnames.emit_address(NR.connect, self.slots[index], name, self.image, self.image.shared)

    def finish(self, program: Program, files: Callable[[int], Slot]) -> None:
        """What waits in them, and what would be in its way; `files` gives the slots of open files."""
        sender = _Sender(self, program, files)
        for index, place in self.places.items():
            with self.image.about(place.about):
                sender.fill(index, place.state)
        for index, place in self.places.items():
            with self.image.about(place.about, "start whoever serves it first"):
                self._finish(index, place, sender)
        for place in self.places.values():
            with self.image.about(place.about):
                unixnames.emit_gone(place.state.file, self.start(place), sender.opener)
        sender.close()
        if self._home is not None:
            sender.opener.close(self._home.top)

    def _finish(self, index: int, place: Place, sender: _Sender) -> None:
        state, fd, program = place.state, self.slots[index], sender.program
        if index in self._ends:
            if state.reset:
                sender.send(fd, unixqueues.Message(b"\0"))
            sender.opener.close(self._ends[index])
        elif state.state == "pair" and state.shutdown:
            program.syscall(NR.shutdown, fd, state.shutdown - 1)
        if state.state == "connected":
            peer = self._index.get(state.peer)
            start = Start(place.cwd) if peer is None else self.start(self.places[peer])
            name = state.remote if peer is None else self.places[peer].state.address
            with unixnames.folder(name, start, sender.opener):
                unixnames.emit_address(NR.connect, fd, name, self.image, program)
        for option in filter(_is_late, state.options):
            sockopts.emit_one(option, fd, self.image, program)
        if state.peek_offset >= 0:
            offset = self.image.data(struct.pack("<i", state.peek_offset), align=4)
            program.syscall(NR.setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, offset, 4)
        program.syscall(NR.fcntl, fd, fcntl.F_SETFL, state.flags)
        if state.state == "listening":
            program.syscall(NR.listen, fd, state.backlog)

    def sender_of(self, index: int) -> Slot | None:
        """The other end of a pair."""
        state = self.places[index].state
        if state.state != "pair":
            return None
        return self._ends[index] if index in self._ends else self.slots[self._index[state.peer]]

    def named(self, name: bytes) -> Slot | None:
        """The datagram socket of that name."""
        for index, place in self.places.items():
            if name and place.state.type == socket.SOCK_DGRAM and place.state.local == name:
                return self.slots[index]
        return None


def _is_late(option: sockopts.Option) -> bool:
    return option.level == SOL_SOCKET and option.number in _LATE_OPTIONS


class _Sender:
    """Fills queues."""

    def __init__(self, sockets: UnixSockets, program: Program, files: Callable[[int], Slot]) -> None:
        self.sockets = sockets
        self.program = program
        self.files = files
        self.opener = Opener(program.image, program)
        self._nameless: Slot | None = None

    def fill(self, index: int, state: UnixSocket) -> None:
        """Sends what the socket has not read yet."""
        pair = self.sockets.sender_of(index)
        for message in state.queue:
            if pair is not None:
                self.send(pair, message)
                continue
            sender = self.sockets.named(message.sender) or self._without_name()
            place = self.sockets.places[index]
            with unixnames.folder(state.address, self.sockets.start(place), self.opener):
                self.send(sender, message, unixnames.pack(state.address))

    def send(self, sender: Slot, message: unixqueues.Message, target: bytes = b"") -> None:
        """One message."""
        unixqueues.emit_send(sender, message, self.program.image, self.program, self.files, target)

    def _without_name(self) -> Slot:
        if self._nameless is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            self._nameless = self.opener.open(NR.socket, socket.AF_UNIX, kind, 0)
        return self._nameless

    def close(self) -> None:
        """What was needed for the sending."""
        if self._nameless is not None:
            self.opener.close(self._nameless)
