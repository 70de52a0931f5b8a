# SPDX-License-Identifier: Apache-2.0
"""What is in flight in the unix sockets of a tree: open files sent and not yet received (SCM_RIGHTS).

    with InFlight(tracees, found) as flight:
        flight.descriptors      # copies of them in this process, read like fds of the tree
        flight.queues           # inode of a socket -> its messages

A file may be open nowhere else, and be a socket with files in its own queue, itself among them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from restorer.state import descriptors, sockdiag, unixqueues
from restorer.state.descriptors import Descriptor, Source, copied
from restorer.state.unixqueues import Message


class Here:
    """This process, as the place where the copies are."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def getfd(self, fd: int) -> int:
        """A duplicate, for the caller to close."""
        return os.dup(fd)


class InFlight:
    """Reads the queues of all unix sockets among `found`, and of those found in them."""

    def __init__(self, tracees: Mapping[int, Source], found: Sequence[Descriptor]) -> None:
        self.here = Here()
        self.sources: dict[int, Source] = {**tracees, self.here.pid: self.here}
        self.descriptors: list[Descriptor] = []
        self.queues: dict[int, tuple[Message, ...]] = {}
        self._found = found
        self._released: set[int] = set()

    def __enter__(self) -> InFlight:
        try:
            todo = [one for one in self._found if one.link.startswith("socket:")]
            while todo:
                todo = [new for one in todo if one.stat.st_ino not in self.queues for new in self._read(one)]
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def release(self, fd: int) -> int:
        """Gives this copy to the caller, to close it."""
        self._released.add(fd)
        return fd

    def _close(self) -> None:
        for queue in self.queues.values():
            unixqueues.close([replace(one, rights=self._own(one.rights)) for one in queue])
        self.queues.clear()

    def _own(self, fds: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(fd for fd in fds if fd not in self._released)

    def _read(self, descriptor: Descriptor) -> list[Descriptor]:
        """The queue of one socket; the sockets in it."""
        inode = descriptor.stat.st_ino
        with copied(self.sources[descriptor.pid], descriptor.number) as copy:
            sock = socket.socket(fileno=copy)
            try:
                if sock.family != socket.AF_UNIX or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return []
                info = sockdiag.unix_socket(inode)
                self.queues[inode] = queue = unixqueues.read(descriptor, sock, info)
            finally:
                sock.detach()
        size_bytes = sum(len(message.data) for message in queue)
        if sock.type != socket.SOCK_DGRAM and size_bytes != info.rqueue:
            raise descriptor.refused(
                "unread bytes of a unix socket could not be read without taking them out"
            )
        return self._carried(descriptor, queue)

    def _carried(self, carrier: Descriptor, queue: Sequence[Message]) -> list[Descriptor]:
        number = carrier.number if carrier.carrier is None else carrier.carrier
        fds = [fd for message in queue for fd in message.rights]
        new = [replace(descriptors.read(self.here.pid, fd), carrier=number) for fd in fds]
        self.descriptors += new
        return [one for one in new if one.link.startswith("socket:")]
