# SPDX-License-Identifier: Apache-2.0
"""Sockets: which family's module describes one, and which lead outside the process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from restorer.state import inet, netlink, packet, sockdiag, tcp, unixsockets
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor, Source, copied
from restorer.state.inet import InetSocket
from restorer.state.netlink import NetlinkSocket
from restorer.state.packet import PacketSocket
from restorer.state.unixlinks import Surroundings
from restorer.state.unixqueues import Message
from restorer.state.unixsockets import UnixSocket

_NAMES = {
    3: "AX.25", 15: "PF_KEY", 29: "CAN", 30: "TIPC", 31: "Bluetooth",
    38: "AF_ALG", 40: "vsock", 43: "SMC", 44: "XDP",
}  # fmt: skip


def capture(
    tracee: Source,
    descriptor: Descriptor,
    around: Surroundings,
    queue: tuple[Message, ...],
    choices: Choices,
) -> InetSocket | NetlinkSocket | PacketSocket | UnixSocket:
    """Describes one socket; `around` has all unix sockets, `queue` what waits in this one. Raises Refused by
    name.
    """
    with _duplicate(tracee, descriptor) as sock:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            return inet.capture(descriptor, sock, choices)
        if sock.family == socket.AF_UNIX:
            return unixsockets.capture(descriptor, sock, around, queue)
        if sock.family == socket.AF_NETLINK:
            return netlink.capture(descriptor, sock)
        if sock.family == socket.AF_PACKET:
            return packet.capture(descriptor, sock, choices)
        name = _NAMES.get(int(sock.family), f"address family {int(sock.family)}")
        raise descriptor.refused(f"{name} socket cannot be checkpointed", "close it first")


def is_connection(tracee: Source, descriptor: Descriptor, own: frozenset[int]) -> bool:
    """Whether the socket is connected to something outside of the target."""
    with _duplicate(tracee, descriptor) as sock:
        try:
            sock.getpeername()
        except OSError:
            return False
        if sock.family != socket.AF_UNIX:
            return sock.type == socket.SOCK_STREAM
        return sockdiag.unix_socket(descriptor.stat.st_ino).peer not in own


def reset_connections(tracee: Source, descriptors: list[Descriptor]) -> None:
    """What tcp_close says to the other ends; changes options, so only for a target about to be killed."""
    for descriptor in descriptors:
        with _duplicate(tracee, descriptor) as sock:
            inet.reset_at_end(sock)


def close_connections_quietly(tracee: Source, descriptors: list[Descriptor]) -> None:
    """Lets the end of the target say nothing to the other ends; only for a target about to be killed."""
    for descriptor in descriptors:
        with _duplicate(tracee, descriptor) as sock:
            tcp.close_quietly(sock)


@contextmanager
def _duplicate(tracee: Source, descriptor: Descriptor) -> Iterator[socket.socket]:
    with copied(tracee, descriptor.number) as copy:
        # Family and type come from the kernel; close() stays with `copied`.
        sock = socket.socket(fileno=copy)
        try:
            yield sock
        finally:
            sock.detach()
