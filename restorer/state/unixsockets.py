# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: listening, bound, connected by name or in pairs, with what waits in them.

The launcher makes them all, names, connections and queues included (unixopen.py). What the program's own
credentials are seen by comes last, in the restored process: SO_PEERCRED of who listens, and connections to
others (--ext-unix).
"""

from __future__ import annotations

import fcntl
import os
import socket

from restorer.program import Image
from restorer.record import dataclass
from restorer.state import sockopts, unixnames, unixqueues
from restorer.state.descriptors import Descriptor
from restorer.state.sockopts import Option
from restorer.state.unixlinks import Surroundings
from restorer.state.unixnames import SocketFile
from restorer.state.unixqueues import Message
from restorer.syscalls import NR


@dataclass(frozen=True)
class UnixSocket:
    """`state` is unbound, bound, listening; connected, a datagram one to `remote`; pair, with `peer` (an
    inode, 0: it has gone); waiting, to be accepted by the listening `peer`, as number `place`; external,
    connected to `remote` outside of the tree.

    `local` and `remote` are sun_path as the kernel keeps it: empty for none, abstract names begin with NUL. A
    `server` has its name from the socket that it was accepted from. `queue` is what the program has not read
    yet, one item a message. `reset`: an error that the program has not seen tells that the peer has gone.
    """

    inode: int
    type: int
    state: str
    local: bytes
    remote: bytes
    peer: int
    server: bool
    place: int
    reset: bool
    backlog: int
    lost_connections: int
    file: SocketFile | None
    queue: tuple[Message, ...]
    shutdown: int
    options: tuple[Option, ...]
    peek_offset: int
    flags: int
    kind: str = "unix"

    @property
    def own_name(self) -> bytes:
        """The name that it is bound to itself."""
        return b"" if self.server else self.local

    @property
    def address(self) -> bytes:
        """Where others reach it now."""
        return self.file.moved if self.file and self.file.moved else self.local


def capture(
    descriptor: Descriptor, sock: socket.socket, around: Surroundings, queue: tuple[Message, ...]
) -> UnixSocket:
    """Describes a socket, `sock` being a duplicate. Raises Refused for connections that cannot be
    restored.
    """
    info = around.info(descriptor)
    local, remote = unixqueues.name_of(sock.getsockname()), _peer_name(sock)
    for name in (local, remote):
        unixnames.check_folder(descriptor, name)
    link = around.link(descriptor, sock, local, remote)
    if link.state == "external" and queue:
        raise descriptor.refused(
            f"unread data from {unixnames.shown(remote)}, which a new connection would not have",
            "try again when it has been read",
        )
    if sock.type == socket.SOCK_DGRAM:
        around.check_senders(descriptor, link, remote, {message.sender for message in queue})
    sockopts.check_filter(descriptor, sock, "unix")
    return UnixSocket(
        inode=descriptor.stat.st_ino,
        type=int(sock.type),
        state=link.state,
        local=local,
        remote=remote,
        peer=link.peer,
        server=link.server,
        place=link.place,
        reset=link.reset,
        backlog=info.wqueue if info.listens else 0,
        lost_connections=sum(inode not in around.own for inode in info.waiting),
        file=None if link.server else unixnames.file_of(descriptor, sock, local, info),
        queue=queue,
        shutdown=info.shutdown,
        options=sockopts.capture(sock, 0),
        peek_offset=sockopts.peek_offset(sock),
        flags=descriptor.kept_flags,
    )


def _peer_name(sock: socket.socket) -> bytes:
    try:
        return unixqueues.name_of(sock.getpeername())
    except OSError:
        return b""


def describe(state: UnixSocket) -> str:
    """A few words for messages."""
    name = unixnames.shown(state.local or state.remote)
    return f"unix socket {name}, {state.state}" if name else f"unix socket, {state.state}"


def emit_late(state: UnixSocket, number: int, image: Image) -> None:
    """In the restored process, where it is `number`, once credentials are back, which peers are told."""
    if state.state == "listening":
        # Again: unix_listen notes who did so last.
        image.main.syscall(NR.listen, number, state.backlog)
    if state.state == "external":
        name = unixnames.shown(state.remote)
        with image.about(f"fd {number}: connection to {name}", "start whoever serves it first"):
            # Whose queue is full says EAGAIN, where the restore would wait for ever.
            image.main.syscall(NR.fcntl, number, fcntl.F_SETFL, state.flags | os.O_NONBLOCK)
            unixnames.emit_address(NR.connect, number, state.remote, image, image.main)
            image.main.syscall(NR.fcntl, number, fcntl.F_SETFL, state.flags)
