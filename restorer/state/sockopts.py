# SPDX-License-Identifier: Apache-2.0
"""Socket options: those that differ from what a fresh socket of the same kind has."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from typing import Any

from restorer.program import OK, Image, Program, Slot, ok_or
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.syscalls import NR

SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_IPV6, _SOL_RAW = 1, 0, 6, 17, 41, 255
IPPROTO_UDPLITE = 136
SO_REUSEADDR = 2
SO_REUSEPORT = 15
SO_LINGER = 13
SO_PEEK_OFF = 42
_SO_SNDBUF, _SO_RCVBUF, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 7, 8, 32, 33
_SO_BUF_LOCK = 72
SO_ATTACH_FILTER = 26
SO_LOCK_FILTER = 44
_SO_PRIORITY, _IP_TOS = 12, 1
SO_BINDTODEVICE = 25
_TCP_CONGESTION = 13
_INT = 4
_INSTRUCTION_BYTES = 8

# (option, bytes), from include/uapi/asm-generic/socket.h, linux/{in,in6,icmp,icmpv6,tcp,udp,udplite}.h. Left
# out: what is read-only, follows the traffic (SO_INCOMING_CPU, TCP_WINDOW_CLAMP, TCP_QUICKACK), is taken by
# reading (SO_ERROR) or depends on a cgroup (SO_RESERVE_MEM). Values may be shorter than their room.
_GENERIC = (
    *(
        (number, _INT)
        for number in (SO_REUSEADDR, 5, 6, 9, 10, 11, SO_REUSEPORT, 16, 18, 29, 34, 35, 36, 40, 41, 43, 45)
    ),
    *((number, _INT) for number in (46, 60, 63, 64, 69, 70, 74, 75, 76, 82, 83, 84)),
    (SO_LINGER, 8),
    (20, 16),
    (21, 16),
    (37, 8),
    (65, 8),
    (47, 8),
    (61, 8),
    (SO_BINDTODEVICE, 16),
)
_IP_OPTIONS = 4
_IP = (
    *(
        (number, _INT)
        for number in (_IP_TOS, 2, 3, 6, 7, 8, 10, 11, 12, 13, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26)
    ),
    *((number, _INT) for number in (32, 33, 34, 49, 50, 51)),
    (_IP_OPTIONS, 40),
)
_IPV6 = (
    *((number, _INT) for number in (2, 3, 4, 5, 7, 8, 11, 16, 17, 18, 19, 23, 25, 26, 29, 30, 31, 33)),
    *((number, _INT) for number in (49, 51, 53, 56, 58, 60, 62, 66, 67, 70, 72, 73, 74, 75, 76, 77, 78)),
    # IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS: headers of what is sent
    *((number, 1024) for number in (54, 55, 57, 59)),
)
_TCP = (
    *(
        (number, _INT)
        for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 18, 23, 25, 27, 30, 34, 36, 37, 44, 45, 46)
    ),
    (13, 16),
    (33, 32),
)
_UDP = tuple((number, _INT) for number in (1, 100, 101, 102, 103, 104))
_UDPLITE = ((10, _INT), (11, _INT))
# ip(7), ipv6(7): readable on any socket, but only datagrams may set it (do_ip_setsockopt).
_DATAGRAMS_ONLY = ((SOL_IP, 32), (SOL_IP, 33), (SOL_IPV6, 17), (SOL_IPV6, 18))
# Refused by protocols that have no use for them, after the same value was read from an equal socket.
_MAY_BE_UNKNOWN = errno.ENOPROTOOPT


@dataclass(frozen=True)
class Option:
    """One setsockopt: `value` is what the kernel takes."""

    level: int
    number: int
    value: bytes


def capture(sock: socket.socket, protocol: int) -> tuple[Option, ...]:
    """The options in which `sock` differs from a new socket of its family, type and protocol."""
    with socket.socket(sock.family, sock.type, protocol) as fresh:
        options = [
            Option(level, number, value)
            for level, number, size_bytes in _table(sock, protocol)
            if (value := _get(sock, level, number, size_bytes)) is not None
            and value != _get(fresh, level, number, size_bytes)
        ]
        options += _priority(sock, fresh, options)
    return (*options, *_buffers(sock), *_filter(sock))


def _priority(sock: socket.socket, fresh: socket.socket, others: list[Option]) -> list[Option]:
    """After IP_TOS, which sets it, too."""
    value = _get(sock, SOL_SOCKET, _SO_PRIORITY, _INT)
    follows = any((one.level, one.number) == (SOL_IP, _IP_TOS) for one in others)
    if value is None or not (follows or value != _get(fresh, SOL_SOCKET, _SO_PRIORITY, _INT)):
        return []
    return [Option(SOL_SOCKET, _SO_PRIORITY, value)]


def _table(sock: socket.socket, protocol: int) -> list[tuple[int, int, int]]:
    family = sock.family
    table = [(SOL_SOCKET, *entry) for entry in _GENERIC]
    if family in (socket.AF_INET, socket.AF_INET6):
        table += [(SOL_IP, *entry) for entry in _IP]
    if family == socket.AF_INET6:
        table += [(SOL_IPV6, *entry) for entry in _IPV6]
    if protocol in (socket.IPPROTO_TCP, 262):
        table += [(SOL_TCP, *entry) for entry in _TCP]
    if protocol in (socket.IPPROTO_UDP, IPPROTO_UDPLITE) and sock.type == socket.SOCK_DGRAM:
        table += [(SOL_UDP, *entry) for entry in _UDP]
    if protocol == IPPROTO_UDPLITE:
        table += [(IPPROTO_UDPLITE, *entry) for entry in _UDPLITE]
    if sock.type == socket.SOCK_RAW:
        table += [(_SOL_RAW, 1, _INT), (_SOL_RAW, 7, _INT), (socket.IPPROTO_ICMPV6, 1, 32)]
    if sock.type == socket.SOCK_STREAM:
        table = [entry for entry in table if entry[:2] not in _DATAGRAMS_ONLY]
    return table


def _get(sock: socket.socket, level: int, number: int, size_bytes: int) -> bytes | None:
    try:
        return sock.getsockopt(level, number, size_bytes)
    except OSError:
        return None


def _buffers(sock: socket.socket) -> list[Option]:
    """Sizes the program chose itself (SOCK_SNDBUF_LOCK 1, SOCK_RCVBUF_LOCK 2); others are tuned."""
    try:
        lock = sock.getsockopt(SOL_SOCKET, _SO_BUF_LOCK)
    except OSError:
        return []
    options = []
    pairs = ((1, _SO_SNDBUF, _SO_SNDBUFFORCE), (2, _SO_RCVBUF, _SO_RCVBUFFORCE))
    for bit, number, force in pairs:
        if lock & bit:
            # socket(7): the kernel doubles what it is given, and shows the doubled value.
            options.append(
                Option(SOL_SOCKET, force, struct.pack("<i", sock.getsockopt(SOL_SOCKET, number) // 2))
            )
    return options


def _filter(sock: socket.socket) -> list[Option]:
    """A classic BPF program as its instructions (SO_GET_FILTER counts in those), and whether it is locked."""
    count = _instructions(sock.fileno(), None, 0)
    found: list[Option] = []
    if count > 0:
        room = ctypes.create_string_buffer(_INSTRUCTION_BYTES * count)
        _instructions(sock.fileno(), room, count)
        found.append(Option(SOL_SOCKET, SO_ATTACH_FILTER, room.raw))
    locked = _get(sock, SOL_SOCKET, SO_LOCK_FILTER, _INT)
    if locked and any(locked):
        found.append(Option(SOL_SOCKET, SO_LOCK_FILTER, locked))
    return found


def _instructions(fd: int, room: Any, count: int) -> int:
    """How many there are, or -errno. With a count of 0 they are only counted (sk_get_filter)."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = ctypes.c_uint32(count)
    if libc.getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, room, ctypes.byref(length)) < 0:
        return -ctypes.get_errno()
    return length.value


def check_filter(descriptor: Descriptor, sock: socket.socket, name: str) -> None:
    """Raises Refused for an eBPF program, which cannot be read: EACCES."""
    if _instructions(sock.fileno(), None, 0) == -errno.EACCES:
        raise descriptor.refused(
            f"{name} socket with an eBPF program cannot be checkpointed", "detach it first"
        )


def peek_offset(sock: socket.socket) -> int:
    """SO_PEEK_OFF, -1 where it is off or unknown to the family."""
    with contextlib.suppress(OSError):
        return sock.getsockopt(SOL_SOCKET, SO_PEEK_OFF)
    return -1


def emit(options: tuple[Option, ...], fd: Slot, image: Image, about: str) -> None:
    """Sets the options on a new socket, in the launcher."""
    for option in options:
        hint = "restore as root with CAP_NET_ADMIN" if option.level == SOL_SOCKET else ""
        with image.about(f"{about}: socket option {option.level}/{option.number}", hint):
            emit_one(option, fd, image)


def emit_one(option: Option, fd: Slot, image: Image, program: Program | None = None) -> None:
    """One setsockopt, in the launcher unless said otherwise."""
    program = program or image.shared
    data = image.data(option.value)
    size = len(option.value)
    if (option.level, option.number) == (SOL_SOCKET, SO_ATTACH_FILTER):
        # struct sock_fprog: how many, and where they are
        fprog = image.data(struct.pack("<H6xQ", size // _INSTRUCTION_BYTES, 0))
        program.store(fprog + 8, data)
        data, size = fprog, 16
    expect = OK if option.level == SOL_SOCKET else ok_or(_MAY_BE_UNKNOWN)
    program.syscall(NR.setsockopt, fd, option.level, option.number, data, size, expect=expect)


def number_of(options: tuple[Option, ...], number: int, level: int = SOL_SOCKET) -> int:
    """The value of an option as an int, 0 when it is not among `options`."""
    for option in options:
        if (option.level, option.number) == (level, number):
            return int.from_bytes(option.value[:4], "little", signed=True)
    return 0
