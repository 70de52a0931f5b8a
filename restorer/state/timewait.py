# SPDX-License-Identifier: Apache-2.0
"""A TCP port that is free but for connections of a moment ago, which stay in TIME_WAIT for a minute.

SO_REUSEADDR lets a socket have the port beside them only if they had it themselves, as those of a server
without it had not (inet_bind_conflict in net/ipv4/inet_connection_sock.c). TCP_REPAIR makes bind(2) ask
nobody (SK_FORCE_REUSE), so before it sock_diag(7) is asked who else has the port, in any other state; if
somebody has, the bind is an ordinary one, which fails. listen(2) asks again, when TCP_REPAIR is over: it
takes the word of the port's last bind that all who have it said SO_REUSEPORT (sk_reuseport_match). One more
bind, without that, takes the word back, or others would be let in by it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from restorer.program import Arg, Data, Image, Slot, ok_or
from restorer.record import dataclass
from restorer.state.opening import Opener
from restorer.state.sockopts import SO_REUSEPORT, SOL_SOCKET
from restorer.syscalls import NR

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, _NLMSG_DONE = 4, 20, 0x301, 3
# struct nlmsghdr, struct inet_diag_req_v2, struct nlattr, struct inet_diag_bc_op, struct inet_diag_hostcond
_HEADER, _REQUEST = struct.Struct("<IHHII"), struct.Struct("<BBBBI48x")
_ATTRIBUTE, _OP, _COND = struct.Struct("<HH"), struct.Struct("<BBH"), struct.Struct("<BB2xi")
_BYTECODE, _S_COND = 1, 7
_PORT_AT = _HEADER.size + _REQUEST.size + _ATTRIBUTE.size + _OP.size + 4
_ANY_PORT, _ANSWER_BYTES, _TYPE_AT = -1, 8192, 4
# All but TIME_WAIT; BOUND_INACTIVE (Linux 6.8) are those that are bound and do nothing, as the socket itself
# is once it is bound.
_OTHERS, _BOUND_INACTIVE = ((1 << 14) - 2) & ~(1 << 6), 1 << 13
_TCP_REPAIR = 19
_ANY4, _ANY6, _MAPPED = bytes(4), bytes(16), bytes(10) + b"\xff\xff"
# An address of the loopback network that nobody will have had connections on: to have a port there, none may
# have it on all addresses.
_NOWHERE = socket.inet_aton("127.251.83.19")


@dataclass(frozen=True)
class Name:
    """What a socket is bound to; `address` is its struct sockaddr, of `length` bytes, whose port may be
    another one by the time of the restore (--publish).
    """

    family: int
    host: str
    only6: bool
    address: Data
    length: int

    @property
    def bytes(self) -> bytes:
        """The address alone, of IPv4 also where an IPv6 socket has it."""
        host = socket.inet_pton(self.family, self.host)
        return host[len(_MAPPED) :] if host.startswith(_MAPPED) else host


@dataclass(frozen=True)
class Bound:
    """How it went: `result` is that of an ordinary bind(2), 0 where nothing more was to be done."""

    name: Name
    result: Slot


def emit_bind(name: Name, fd: Slot, image: Image, opener: Opener) -> Bound:
    """Binds `fd`, which has SO_REUSEADDR for the moment and no SO_REUSEPORT."""
    shared = image.shared
    in_use = ok_or(errno.EADDRINUSE)
    result = shared.call(NR.bind, fd, name.address, name.length, expect=in_use)
    with shared.unless_eq(result, 0):
        with shared.unless_eq(_sees_bound(image, opener), _SOCK_DIAG_BY_FAMILY):
            shared.syscall(NR.bind, fd, name.address, name.length)
        for kind in _rivals(name, _OTHERS, image, opener):
            with shared.unless_eq(kind, _NLMSG_DONE):
                shared.syscall(NR.bind, fd, name.address, name.length)
        if len(name.bytes) == len(_ANY4):
            port = shared.load(name.address + 2, 2)
            probe, free = _nowhere(port, image, opener)
            opener.close(probe)
            with shared.unless_eq(free, 0):
                shared.syscall(NR.bind, fd, name.address, name.length)
        _set(fd, socket.IPPROTO_TCP, _TCP_REPAIR, 1, image)
        _set(fd, SOL_SOCKET, SO_REUSEPORT, 1, image)
        shared.syscall(NR.bind, fd, name.address, name.length)
        _set(fd, socket.IPPROTO_TCP, _TCP_REPAIR, 0, image)
        for kind in _rivals(name, _OTHERS & ~_BOUND_INACTIVE, image, opener):
            shared.check_eq(kind, _NLMSG_DONE)
    return Bound(name, result)


def emit_settle(bound: Bound, fd: Slot, image: Image, opener: Opener) -> None:
    """After listen(2): `fd` has no SO_REUSEPORT any more, and nobody else is let in by it."""
    shared, name = image.shared, bound.name
    with shared.unless_eq(bound.result, 0):
        _set(fd, SOL_SOCKET, SO_REUSEPORT, 0, image)
        other = opener.open(NR.socket, name.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
        _set(other, socket.IPPROTO_TCP, _TCP_REPAIR, 1, image)
        shared.syscall(NR.bind, other, name.address, name.length)
        opener.close(other)


def _nowhere(port: Arg, image: Image, opener: Opener) -> tuple[Slot, Slot]:
    """A socket on that port (as the network has it) of _NOWHERE, and whether it got it: 0."""
    shared = image.shared
    address = image.data(struct.pack("=HH4s8x", socket.AF_INET, 0, _NOWHERE))
    shared.store(address + 2, port, 2)
    probe = opener.open(NR.socket, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
    return probe, shared.call(NR.bind, probe, address, 16, expect=ok_or(errno.EADDRINUSE))


def _sees_bound(image: Image, opener: Opener) -> Slot:
    """Whether this kernel tells of those that are bound and do nothing: _SOCK_DIAG_BY_FAMILY if it does."""
    probe, _ = _nowhere(0, image, opener)
    wanted = socket.AF_INET, socket.AF_INET, _NOWHERE, 32
    kind = _ask(image.data(_request(*wanted, _BOUND_INACTIVE)), image, opener)
    opener.close(probe)
    return kind


def _rivals(name: Name, states: int, image: Image, opener: Opener) -> Iterator[Slot]:
    """Whether anybody has the port, in one of these states, on an address that the name covers: each is
    _NLMSG_DONE if nobody has.
    """
    shared = image.shared
    for wanted in _covered(name):
        request = image.data(_request(*wanted, states))
        shared.store(request + _PORT_AT, 0, 4)
        for byte in (0, 1):
            # The port is big-endian in the one and an int of this machine in the other.
            shared.store(request + _PORT_AT + byte, shared.load(name.address + (3 - byte), 1), 1)
        yield _ask(request, image, opener)


def _ask(request: Data, image: Image, opener: Opener) -> Slot:
    """The type of the first message of the answer."""
    shared = image.shared
    answer = image.reserve(_ANSWER_BYTES)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    link = opener.open(NR.socket, socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)
    shared.syscall(NR.sendto, link, request, shared.load(request, 4), 0, 0, 0)
    shared.syscall(NR.recvfrom, link, answer, _ANSWER_BYTES, 0, 0, 0)
    opener.close(link)
    return shared.load(answer + _TYPE_AT, 2)


def _covered(name: Name) -> Iterator[tuple[int, int, bytes, int]]:
    """(family of the sockets, family of the address, address, its bits that count)."""
    host = name.bytes
    if len(host) == len(_ANY4):
        bits = 0 if host == _ANY4 else 32
        yield socket.AF_INET, socket.AF_INET, host, bits
        yield socket.AF_INET6, socket.AF_INET, host, bits
    elif host == _ANY6:
        yield socket.AF_INET6, socket.AF_INET6, host, 0
        if not name.only6:
            yield socket.AF_INET, socket.AF_INET, _ANY4, 0
    else:
        yield socket.AF_INET6, socket.AF_INET6, host, 128
        yield socket.AF_INET6, socket.AF_INET6, _ANY6, 128


def _request(family: int, of_family: int, host: bytes, bits: int, states: int) -> bytes:
    code_bytes = _OP.size + _COND.size + len(host)
    # Where the condition does not hold, more than what is left is skipped: no match (inet_diag_bc_run).
    code = _OP.pack(_S_COND, code_bytes, code_bytes + 4) + _COND.pack(of_family, bits, _ANY_PORT) + host
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(code), _BYTECODE) + code
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body


def _set(fd: Slot, level: int, number: int, value: int, image: Image) -> None:
    data = image.data(struct.pack("<i", value), align=4)
    image.shared.syscall(NR.setsockopt, fd, level, number, data, 4)
