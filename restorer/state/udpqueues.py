# SPDX-License-Identifier: Apache-2.0
"""Datagrams that a UDP socket has not read: peeked at the checkpoint, and sent again at a restore, each from
its sender's address, as the loopback interface delivers what a raw socket sends.

What was addressed to many, or to the address of an interface, would not come to the same socket.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state import sockopts
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.state.sockopts import IPPROTO_UDPLITE, SO_PEEK_OFF, SOL_SOCKET, SOL_UDP
from restorer.syscalls import NR

_DATAGRAM_BYTES = 1 << 16
_IP_PKTINFO, _UDP_CORK, _UDP_GRO = 8, 1, 104
# SO_REUSEPORT: the kernel chooses who gets it
_OTHERS = (15, sockopts.SO_BINDTODEVICE)
_HOPS = 64
_UDP_BYTES = 8
_PORT_AT = 22  # of the destination, after an IPv4 header


@dataclass(frozen=True)
class Datagram:
    """Addresses are packed; `family` is that of the packet, which an IPv6 socket may have by IPv4."""

    family: int
    source: bytes
    source_port: int
    destination: bytes
    data: bytes


def capture(
    descriptor: Descriptor, sock: socket.socket, protocol: int, choices: Choices
) -> tuple[Datagram, ...]:
    """The queue, left as it is. Raises Refused for what cannot be sent again, unless it may be lost."""
    if protocol in (socket.IPPROTO_UDP, IPPROTO_UDPLITE) and sock.getsockopt(SOL_UDP, _UDP_CORK):
        raise descriptor.refused("UDP socket with half a datagram (UDP_CORK)", "try again when it is sent")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    events = dict(poll.poll(0)).get(sock.fileno(), 0)
    if not events & select.POLLIN or choices.skip_in_flight:
        return ()
    why = "" if protocol == socket.IPPROTO_UDP else "of this kind"
    if events & select.POLLERR:
        # Whoever looks at the queue is told the error, and nobody after.
        why = "behind an error"
    elif any(any(sock.getsockopt(SOL_SOCKET, one, 16)) for one in _OTHERS):
        why = "of a group of sockets (SO_REUSEPORT) or of one interface"
    found = tuple(_read(sock)) if not why else ()
    if any(not _is_ordinary(one) for one in found):
        why = "that were sent to many, or within a link"
    if why:
        raise descriptor.refused(
            f"unread datagrams {why} cannot be kept", "try again when they are read, or see --skip-in-flight"
        )
    return found


def _is_ordinary(datagram: Datagram) -> bool:
    ends = [ipaddress.ip_address(end) for end in (datagram.source, datagram.destination)]
    special = any(end.is_multicast or end.is_link_local or end.is_unspecified for end in ends)
    return not special and not _is_broadcast(datagram)


def _is_broadcast(datagram: Datagram) -> bool:
    """A socket may not be connected to such an address without SO_BROADCAST (ip(7)); nothing is sent."""
    if datagram.family != socket.AF_INET:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((socket.inet_ntoa(datagram.destination), 9))
        except PermissionError:
            return True
    return False


def _read(sock: socket.socket) -> Iterator[Datagram]:
    with _told_destinations(sock):
        while True:
            try:
                flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
                data, ancillary, _, source = sock.recvmsg(_DATAGRAM_BYTES, 1024, flags)
            except BlockingIOError:
                return
            yield from _datagrams(sock, data, ancillary, source)


def _datagrams(
    sock: socket.socket, data: bytes, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int]
) -> Iterator[Datagram]:
    destination, piece_bytes = b"", len(data)
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            destination = value[8:12]
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            destination = value[:16]
        elif (level, kind) == (SOL_UDP, _UDP_GRO):
            piece_bytes = struct.unpack_from("=i", value)[0]
    packed = socket.inet_pton(sock.family, source[0].partition("%")[0])
    family = int(sock.family)
    if family == socket.AF_INET6 and destination[:12] == bytes(10) + b"\xff\xff":
        family, packed, destination = int(socket.AF_INET), packed[12:], destination[12:]
    for at in range(0, max(len(data), 1), max(piece_bytes, 1)):
        yield Datagram(family, packed, source[1], destination, data[at : at + max(piece_bytes, 1)])


@contextmanager
def _told_destinations(sock: socket.socket) -> Iterator[None]:
    """A walk through the queue, with the address that each datagram was sent to."""
    if sock.family == socket.AF_INET6:
        level, number = socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO
    else:
        level, number = socket.IPPROTO_IP, _IP_PKTINFO
    told, offset = sock.getsockopt(level, number), sock.getsockopt(SOL_SOCKET, SO_PEEK_OFF)
    sock.setsockopt(level, number, 1)
    sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, 0)
    try:
        yield
    finally:
        sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, offset)
        sock.setsockopt(level, number, told)


def emit(datagrams: tuple[Datagram, ...], port: int, image: Image, opener: Opener) -> None:
    """Sends them to the socket that is bound to `port`, before it has a peer."""
    senders: dict[int, Slot] = {}
    for one in datagrams:
        if one.family not in senders:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            senders[one.family] = opener.open(NR.socket, one.family, kind, socket.IPPROTO_RAW)
        packet, target = image.data(_packet(one, port)), _target(one)
        if one.family == socket.AF_INET:
            image.port(packet + _PORT_AT, socket.IPPROTO_UDP)
        size = len(_packet(one, port))
        address = image.data(target)
        image.shared.syscall(
            NR.sendto, senders[one.family], packet, size, 0, address, len(target), expect=exactly(size)
        )
    for sender in senders.values():
        opener.close(sender)


def _target(one: Datagram) -> bytes:
    """struct sockaddr_in or sockaddr_in6, without port."""
    if one.family == socket.AF_INET:
        return struct.pack("=HH", one.family, 0) + one.destination + bytes(8)
    return struct.pack("=HHI", one.family, 0, 0) + one.destination + bytes(4)


def _packet(one: Datagram, port: int) -> bytes:
    size = _UDP_BYTES + len(one.data)
    header = struct.pack(">HHHH", one.source_port, port, size, 0)
    if one.family == socket.AF_INET:
        # The kernel fills in length, id and checksum (raw(7)); a UDP checksum of 0 is none.
        fixed = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, _HOPS, socket.IPPROTO_UDP, 0)
        return fixed + one.source + one.destination + header + one.data
    pseudo = one.source + one.destination + struct.pack(">II", size, socket.IPPROTO_UDP)
    total = _checksum(pseudo + header + one.data) or 0xFFFF
    fixed = struct.pack(">IHBB", 6 << 28, size, socket.IPPROTO_UDP, _HOPS)
    return fixed + one.source + one.destination + header[:6] + struct.pack(">H", total) + one.data


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
