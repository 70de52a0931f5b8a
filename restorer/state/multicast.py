# SPDX-License-Identifier: Apache-2.0
"""Multicast groups a socket has joined.

No call lists them: the kernel is asked about each group that any socket of the network namespace has joined.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable

from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.state.sockopts import Option

_MCAST_JOIN_GROUP, _MCAST_MSFILTER = 42, 48
_MCAST_EXCLUDE = 0
_ADDRESS_BYTES = 128
# struct group_filter without sources: interface, padding, sockaddr_storage, fmode, numsrc
_FILTER_BYTES = 144
_MODE_OFFSET = 136
_SOURCES_MAX = 512


@dataclass(frozen=True)
class Group:
    """A group on an interface; `address` is packed as in struct in_addr or in6_addr."""

    interface: int
    family: int
    address: bytes


def capture(descriptor: Descriptor, sock: socket.socket) -> tuple[Option, ...]:
    """The options that join, for each membership, and those that choose its sources."""
    groups = _known("/proc/net/igmp", parse_igmp)
    if sock.family == socket.AF_INET6:
        groups += _known("/proc/net/igmp6", parse_igmp6)
    joined = []
    for group in groups:
        chosen = _filter_of(descriptor, sock.fileno(), group)
        if chosen is not None:
            joined.append(Option(_level(group), _MCAST_JOIN_GROUP, _request(group)))
            if struct.unpack_from("=II", chosen, _MODE_OFFSET) != (_MCAST_EXCLUDE, 0):
                joined.append(Option(_level(group), _MCAST_MSFILTER, chosen))
    return tuple(joined)


def _known(path: str, parse: Callable[[list[str]], list[Group]]) -> list[Group]:
    try:
        with open(path, encoding="ascii") as file:
            return parse(file.read().splitlines())
    except OSError:
        return []


def parse_igmp(lines: list[str]) -> list[Group]:
    """/proc/net/igmp: a line for each interface, then indented ones with its groups, in host byte order."""
    groups, interface = [], 0
    for line in lines[1:]:
        words = line.split()
        if not line.startswith("\t"):
            interface = int(words[0])
        elif len(words[0]) == 8:
            groups.append(Group(interface, socket.AF_INET, int(words[0], 16).to_bytes(4, "little")))
    return groups


def parse_igmp6(lines: list[str]) -> list[Group]:
    """/proc/net/igmp6: interface, its name, group, ..."""
    split = (line.split() for line in lines)
    return [Group(int(words[0]), socket.AF_INET6, bytes.fromhex(words[2])) for words in split]


def _level(group: Group) -> int:
    return socket.IPPROTO_IP if group.family == socket.AF_INET else socket.IPPROTO_IPV6


def _request(group: Group) -> bytes:
    """struct group_req: interface and a sockaddr_storage."""
    between = bytes(2) if group.family == socket.AF_INET else bytes(6)
    address = (struct.pack("=H", group.family) + between + group.address).ljust(_ADDRESS_BYTES, b"\0")
    return struct.pack("=I4x", group.interface) + address


def _filter_of(descriptor: Descriptor, fd: int, group: Group) -> bytes | None:
    """struct group_filter of the socket's membership, with its sources; None where it has none
    (EADDRNOTAVAIL).
    """
    size = _FILTER_BYTES + _SOURCES_MAX * _ADDRESS_BYTES
    wanted = _request(group) + struct.pack("=II", 0, _SOURCES_MAX)
    buffer = ctypes.create_string_buffer(wanted.ljust(size, b"\0"), size)
    length = ctypes.c_uint32(size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(fd, _level(group), _MCAST_MSFILTER, buffer, ctypes.byref(length)) < 0:
        return None
    (sources,) = struct.unpack_from("=I", buffer.raw, _MODE_OFFSET + 4)
    if sources > _SOURCES_MAX:
        address = socket.inet_ntop(group.family, group.address)
        raise descriptor.refused(f"{sources} sources chosen for multicast group {address}", "leave it first")
    return buffer.raw[: _FILTER_BYTES + sources * _ADDRESS_BYTES]
