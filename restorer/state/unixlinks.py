# SPDX-License-Identifier: Apache-2.0
"""Which connection a unix socket is part of, and whether its other end is in the tree.

An accepted socket has the name of the listening one. Of a pair of connected sockets that makes the server the
one with a name, or if both have one, the one whose name takes connections.
"""

from __future__ import annotations

import array
import fcntl
import functools
import os
import socket
import termios

from restorer.record import dataclass
from restorer.state import holders, sockdiag, unixnames, unixqueues
from restorer.state.descriptors import Descriptor
from restorer.state.sockdiag import UnixInfo


@dataclass(frozen=True)
class Link:
    """`state` and `peer` as in UnixSocket; `server`: accepted from a socket of its own name; `place`: its
    turn in the queue of the listening socket `peer`; `reset`: an error tells that the peer has gone.
    """

    state: str
    peer: int = 0
    server: bool = False
    place: int = 0
    reset: bool = False


class Surroundings:
    """All unix sockets of the network namespace; `own` are the inodes of those of the tree.

    `ext_unix`: connections to others are connected anew, or come back closed by the peer. `skip_in_flight`:
    connections which wait to be accepted may be lost.
    """

    def __init__(self, own: frozenset[int], *, ext_unix: bool = False, skip_in_flight: bool = False) -> None:
        self.own = own
        self.ext_unix = ext_unix
        self.skip_in_flight = skip_in_flight

    @functools.cached_property
    def _all(self) -> dict[int, UnixInfo]:
        return sockdiag.unix_sockets()

    def info(self, descriptor: Descriptor) -> UnixInfo:
        """What the kernel says of a socket of the tree."""
        found = self._all.get(descriptor.stat.st_ino)
        if found is None:
            raise descriptor.refused("unix socket is not in this network namespace")
        return found

    def link(self, descriptor: Descriptor, sock: socket.socket, local: bytes, remote: bytes) -> Link:
        """Raises Refused for connections that cannot be restored."""
        info = self.info(descriptor)
        if info.listens:
            self._check_queue(descriptor, info)
            return Link("listening")
        if info.peer is None:
            return Link("bound" if local else "unbound")
        if sock.type == socket.SOCK_DGRAM:
            return self._datagrams(descriptor, info, remote)
        if not info.peer and not info.shutdown:
            return self._waiting(descriptor, sock, local, remote)
        if info.peer and info.peer not in self.own:
            return self._outside(descriptor, local, remote, info.peer)
        server = self._is_server(descriptor, local, remote)
        if server:
            self._check_accepted(descriptor, info, local)
        return Link("pair", info.peer, server, reset=not info.peer and unixqueues.has_error(sock))

    def check_senders(self, descriptor: Descriptor, link: Link, remote: bytes, senders: set[bytes]) -> None:
        """A datagram can be sent again by the peer, by a socket of the tree, or by one without a name."""
        if link.state == "pair":
            known = {remote if link.peer else b""}
        else:
            known = {b"", *(self._all[inode].name for inode in self.own if inode in self._all)}
        for sender in senders - known:
            raise descriptor.refused(
                f"a unix socket has an unread message from {unixnames.shown(sender)}, not in the tree",
                "try again when it has been read",
            )

    def _check_queue(self, descriptor: Descriptor, info: UnixInfo) -> None:
        lost = sum(inode not in self.own for inode in info.waiting)
        if lost and not self.skip_in_flight:
            raise descriptor.refused(
                f"{lost} connections from outside to unix socket {unixnames.shown(info.name)} wait to be "
                "accepted",
                "try again when they are, or see --skip-in-flight",
            )

    def _datagrams(self, descriptor: Descriptor, info: UnixInfo, remote: bytes) -> Link:
        """A datagram socket with a peer needs nobody's leave to be connected anew, and nothing is lost."""
        peer = info.peer or 0
        if not peer or (peer in self.own and self._all[peer].peer == info.inode):
            return Link("pair", peer)
        if not remote:
            return self._outside(descriptor, b"", b"", peer)
        if peer not in self.own and unixnames.is_relative(remote):
            raise descriptor.refused(
                f"unix socket connected to {unixnames.shown(remote)}, which is relative to the working "
                "directory of another process",
                "close it first",
            )
        return Link("connected", peer)

    def _waiting(self, descriptor: Descriptor, sock: socket.socket, local: bytes, remote: bytes) -> Link:
        """Connected, but not accepted yet."""
        inode = descriptor.stat.st_ino
        listener = next((one for one in self._all.values() if inode in one.waiting), None)
        if listener is None:
            raise descriptor.refused("the peer of a unix socket is just being closed", "try again")
        if listener.inode not in self.own:
            return self._outside(descriptor, local, remote, listener.inode)
        if not _unread_by_peer(sock):
            return Link("waiting", listener.inode, place=listener.waiting.index(inode))
        if self.skip_in_flight:
            return Link("pair", reset=True)
        raise descriptor.refused(
            f"data for {unixnames.shown(remote)} waits in a connection that was not accepted yet",
            "try again when it is, or see --skip-in-flight",
        )

    def _outside(self, descriptor: Descriptor, local: bytes, remote: bytes, peer: int) -> Link:
        whom = unixnames.shown(remote) if remote else self._holder(peer)
        refusal = f"unix socket connected to {whom} cannot be checkpointed"
        if not local and not remote:
            raise descriptor.refused(refusal, "close it first: nothing without a name can be connected anew")
        if not self.ext_unix:
            raise descriptor.refused(refusal, "close it first, or see --ext-unix")
        if self._is_server(descriptor, local, remote):
            self._check_accepted(descriptor, self.info(descriptor), local)
            return Link("pair", server=True)
        self._check_served(descriptor, remote)
        return Link("external")

    def _holder(self, inode: int) -> str:
        found = holders.find((), frozenset((f"socket:[{inode}]",)))
        return ", ".join(str(one) for every in found.values() for one in every[:1]) or "another process"

    def _is_server(self, descriptor: Descriptor, local: bytes, remote: bytes) -> bool:
        if not local or not remote:
            return bool(local)
        names = {one.name for one in self._all.values() if one.listens}
        if (local in names) == (remote in names):
            raise descriptor.refused(
                f"it cannot be told which of {unixnames.shown(local)} and {unixnames.shown(remote)} has "
                "connected to the other",
                "close the connection first",
            )
        return local in names

    def _check_accepted(self, descriptor: Descriptor, info: UnixInfo, local: bytes) -> None:
        """The name must be free at a restore, or its listening socket in the image."""
        served = [one for one in self._all.values() if one.listens and one.name == local]
        if any(one.inode in self.own for one in served):
            return
        if served or (
            unixnames.is_path(local) and os.path.lexists(unixnames.seen_from(descriptor.pid, local))
        ):
            raise descriptor.refused(
                f"unix connection accepted at {unixnames.shown(local)}, where another process is now",
                "close it first",
            )

    def _check_served(self, descriptor: Descriptor, remote: bytes) -> None:
        """Whether a restore would find somebody there."""
        name = unixnames.shown(remote)
        if unixnames.is_relative(remote):
            raise descriptor.refused(
                f"unix socket connected to {name}, which is relative to the working directory of another "
                "process",
                "close it first",
            )
        served = [one for one in self._all.values() if one.listens and one.name == remote]
        if unixnames.is_path(remote):
            inode = _inode_of(descriptor, remote)
            served = [one for one in served if one.vfs_inode == inode]
        if not served:
            raise descriptor.refused(
                f"unix socket connected to {name}, where nobody takes connections any more", "close it first"
            )


def _inode_of(descriptor: Descriptor, name: bytes) -> int:
    try:
        return os.stat(unixnames.seen_from(descriptor.pid, name)).st_ino & 0xFFFFFFFF
    except OSError:
        return 0


def _unread_by_peer(sock: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]
