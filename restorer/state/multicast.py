# SPDX-License-Identifier: Apache-2.0
"""Multicast groups a socket has joined.

No call lists them: the kernel is asked about each group that any socket of the network namespace has joined.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from restorer.state.descriptors import Descriptor
from restorer.state.sockopts import Option

_MCAST_JOIN_GROUP, _MCAST_MSFILTER = 42, 48
_MCAST_EXCLUDE = 0
_ADDRESS_BYTES = 128
# struct group_filter without sources: interface, padding, sockaddr_storage, fmode, numsrc
_FILTER_BYTES = 144
_MODE_OFFSET = 136


@dataclass(frozen=True)
class Group:
    """A group on an interface; `address` is packed as in struct in_addr or in6_addr."""

    interface: int
    family: int
    address: bytes


def capture(descriptor: Descriptor, sock: socket.socket) -> tuple[Option, ...]:
    """An option that joins, for each membership. Raises Refused for memberships with a filter of sources."""
    groups = _known("/proc/net/igmp", parse_igmp)
    if sock.family == socket.AF_INET6:
        groups += _known("/proc/net/igmp6", parse_igmp6)
    joined = []
    for group in groups:
        mode = _filter_of(sock.fileno(), group)
        if mode is None:
            continue
        if mode != (_MCAST_EXCLUDE, 0):
            address = socket.inet_ntop(group.family, group.address)
            raise descriptor.refused(f"socket with a source filter for multicast group {address}")
        joined.append(Option(_level(group), _MCAST_JOIN_GROUP, _request(group)))
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


def _filter_of(fd: int, group: Group) -> tuple[int, int] | None:
    """(mode, number of sources) of the socket's membership, None where it has none (EADDRNOTAVAIL)."""
    buffer = ctypes.create_string_buffer(_request(group).ljust(_FILTER_BYTES, b"\0"), _FILTER_BYTES)
    length = ctypes.c_uint32(_FILTER_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(fd, _level(group), _MCAST_MSFILTER, buffer, ctypes.byref(length)) < 0:
        return None
    mode, sources = struct.unpack_from("=II", buffer.raw, _MODE_OFFSET)
    return mode, sources
