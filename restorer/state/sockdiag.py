# SPDX-License-Identifier: Apache-2.0
"""NETLINK_SOCK_DIAG: what neither getsockopt nor /proc shows of a socket (backlogs, peers, queues)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from restorer.errors import FeatureError, Refused
from restorer.record import dataclass

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCPF_LISTEN, _TCPF_SYN_SENT, _TCPF_BOUND_INACTIVE = 1 << 10, 1 << 2, 1 << 13
_UNIX_SHOW = 0x01 | 0x02 | 0x04 | 0x08 | 0x10
_UNIX_NAME, _UNIX_VFS, _UNIX_PEER, _UNIX_ICONS, _UNIX_RQLEN, _UNIX_SHUTDOWN = 0, 1, 2, 3, 4, 6
_LISTEN = 10
_ALL_STATES = 0xFFFFFFFF
_INET_MD5SIG, _INET_MESSAGE_BYTES = 18, 72
_PACKET_SHOW = 0x01 | 0x02 | 0x04 | 0x08
_PACKET_INFO, _PACKET_MEMBERS, _PACKET_RX_RING, _PACKET_TX_RING, _PACKET_FANOUT = 0, 1, 2, 3, 4
# struct packet_diag_mclist: interface, count, type, bytes of the address, address
_MEMBER = struct.Struct("=iIHH32s")
_HEADER = struct.Struct("=IHHII")
_NO_COOKIE = 0xFFFFFFFF


@dataclass(frozen=True)
class Listener:
    """The accept queue of a listening socket: connections in it, and how many fit."""

    pending: int
    backlog: int


@dataclass(frozen=True)
class UnixInfo:
    """unix_diag's view of one socket; `peer` is None without one, 0 when the peer has been closed or waits to
    be accepted. `name` is as the kernel keeps it, abstract ones begin with NUL. `waiting` are the sockets
    whose connections wait in the queue of a listening one, 0 for those closed since.
    """

    inode: int
    type: int
    state: int
    name: bytes
    vfs_inode: int | None
    peer: int | None
    waiting: tuple[int, ...]
    rqueue: int
    wqueue: int
    shutdown: int

    @property
    def listens(self) -> bool:
        """Whether it takes connections."""
        return self.state == _LISTEN


@dataclass(frozen=True)
class Membership:
    """What a packet socket asked of an interface, `count` times: all of its packets (PACKET_MR_PROMISC), or
    those for an address.
    """

    interface: int
    count: int
    type: int
    address: bytes

    def request(self) -> bytes:
        """struct packet_mreq, or packet_mreq_max for long addresses."""
        head = struct.pack("=iHH", self.interface, self.type, len(self.address))
        return head + self.address.ljust(8, b"\0")


@dataclass(frozen=True)
class PacketInfo:
    """packet_diag's view of one packet socket; `interface` is 0 for all."""

    protocol: int
    interface: int
    memberships: tuple[Membership, ...]
    has_ring: bool
    has_fanout: bool


def packet_socket(inode: int) -> PacketInfo:
    """One packet socket. Raises Refused when the kernel does not find it in this network namespace."""
    request = struct.pack("=BBHIIII", socket.AF_PACKET, 0, 0, 0, _PACKET_SHOW, _NO_COOKIE, _NO_COOKIE)
    for message in _ask(request, _NLM_F_DUMP):
        if struct.unpack_from("=I", message, 4)[0] == inode:
            return _parse_packet(message)
    raise Refused(f"packet socket {inode} is not in this network namespace")


def _parse_packet(message: bytes) -> PacketInfo:
    attributes = dict(_attributes(message[16:]))
    members = _MEMBER.iter_unpack(attributes[_PACKET_MEMBERS])
    return PacketInfo(
        protocol=struct.unpack_from("=H", message, 2)[0],
        interface=struct.unpack_from("=i", attributes[_PACKET_INFO])[0],
        memberships=tuple(
            Membership(index, count, kind, address[:length])
            for index, count, kind, length, address in members
        ),
        has_ring=_PACKET_RX_RING in attributes or _PACKET_TX_RING in attributes,
        has_fanout=_PACKET_FANOUT in attributes,
    )


def inet_listeners(family: int, protocol: int) -> dict[int, Listener]:
    """Inode -> accept queue of all listening sockets of AF_INET or AF_INET6."""
    request = struct.pack("=BBBxI48x", family, protocol, 0, _TCPF_LISTEN)
    found = {}
    for message in _ask(request, _NLM_F_DUMP):
        rqueue, wqueue, _uid, inode = struct.unpack_from("=4I", message, 56)
        found[inode] = Listener(rqueue, wqueue)
    return found


def tells_of_bound() -> bool:
    """Whether this kernel lists TCP sockets that are bound and do nothing (Linux 6.8)."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        inode = os.fstat(sock.fileno()).st_ino
        request = struct.pack("=BBBxI48x", sock.family, socket.IPPROTO_TCP, 0, _TCPF_BOUND_INACTIVE)
        answers = list(_ask(request, _NLM_F_DUMP))
    return any(struct.unpack_from("=I", message, 68)[0] == inode for message in answers)


def inet_target(sock: socket.socket, inode: int) -> tuple[str, int, int] | None:
    """Where a TCP socket is just connecting to (getpeername does not tell yet): host, port, interface."""
    request = struct.pack("=BBBxI48x", sock.family, socket.IPPROTO_TCP, 0, _TCPF_SYN_SENT)
    for message in _ask(request, _NLM_F_DUMP):
        if struct.unpack_from("=I", message, 68)[0] == inode:
            size = 4 if sock.family == socket.AF_INET else 16
            host = socket.inet_ntop(sock.family, message[24 : 24 + size])
            return host, *struct.unpack_from(">H", message, 6), *struct.unpack_from("=I", message, 40)
    return None


def has_tcp_signatures(sock: socket.socket) -> bool:
    """Whether a TCP connection has keys for TCP_MD5SIG (RFC 2385), which no call reads."""
    (here, here_port, *_), (there, there_port, *scope) = sock.getsockname(), sock.getpeername()
    ends = (socket.inet_pton(sock.family, host.partition("%")[0]).ljust(16, b"\0") for host in (here, there))
    ports = struct.pack(">HH", here_port, there_port)
    interface = scope[1] if len(scope) == 2 else 0
    head = struct.pack("=BBBxI", sock.family, socket.IPPROTO_TCP, 0, _ALL_STATES)
    request = head + ports + b"".join(ends) + struct.pack("=III", interface, _NO_COOKIE, _NO_COOKIE)
    for message in _ask(request, 0):
        return any(kind == _INET_MD5SIG for kind, _ in _attributes(message[_INET_MESSAGE_BYTES:]))
    raise Refused(f"TCP connection to {there}:{there_port} is not in this network namespace")


def unix_socket(inode: int) -> UnixInfo:
    """One unix socket. Raises Refused when the kernel does not find it in this network namespace."""
    for message in _ask(_unix_request(inode), 0):
        return _parse_unix(message)
    raise Refused(f"unix socket {inode} is not in this network namespace")


def unix_sockets() -> dict[int, UnixInfo]:
    """All unix sockets of this network namespace that have an inode."""
    return {one.inode: one for one in map(_parse_unix, _ask(_unix_request(0), _NLM_F_DUMP)) if one.inode}


def _unix_request(inode: int) -> bytes:
    return struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL_STATES, inode, _UNIX_SHOW, _NO_COOKIE, _NO_COOKIE
    )


def _parse_unix(message: bytes) -> UnixInfo:
    attributes = dict(_attributes(message[16:]))
    rqueue, wqueue = struct.unpack_from("=II", attributes.get(_UNIX_RQLEN, bytes(8)))
    vfs, peer = attributes.get(_UNIX_VFS), attributes.get(_UNIX_PEER)
    waiting, name = attributes.get(_UNIX_ICONS, b""), attributes.get(_UNIX_NAME, b"")
    return UnixInfo(
        inode=struct.unpack_from("=I", message, 4)[0],
        type=message[1],
        state=message[2],
        name=name if name.startswith(b"\0") else name.rstrip(b"\0"),
        vfs_inode=None if vfs is None else int.from_bytes(vfs[:4], "little"),
        peer=None if peer is None else int.from_bytes(peer[:4], "little"),
        waiting=struct.unpack(f"={len(waiting) // 4}I", waiting),
        rqueue=rqueue,
        wqueue=wqueue,
        shutdown=attributes.get(_UNIX_SHUTDOWN, b"\0")[0],
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _ask(request: bytes, flags: int) -> Iterator[bytes]:
    """The payloads of the answers."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        ) as sock:
            length = _HEADER.size + len(request)
            sock.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 1, 0) + request)
            yield from _answers(sock, bool(flags & _NLM_F_DUMP))
    except OSError as error:
        raise FeatureError(
            f"the kernel does not answer questions about sockets: {error.strerror}",
            "load the modules inet_diag, tcp_diag, unix_diag and af_packet_diag",
        ) from None


def _answers(sock: socket.socket, dump: bool) -> Iterator[bytes]:
    while True:
        data = sock.recv(1 << 18)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _flags, _seq, _pid = _HEADER.unpack_from(data, at)
            payload = data[at + _HEADER.size : at + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(payload[:4], "little", signed=True)
                if code == errno.ENOENT and not dump:
                    return
                raise OSError(code, os.strerror(code))
            yield payload
            at += (length + 3) & ~3
        if not dump:
            return
