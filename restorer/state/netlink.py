# SPDX-License-Identifier: Apache-2.0
"""Netlink sockets (netlink(7)): their address, the groups that they listen to, their options.

Of the kernel's families those are taken whose sockets hold nothing in the kernel that no call shows. Of the
others, a netfilter socket may own tables and queues (NFT_TABLE_F_OWNER, nfnetlink_queue), a generic one
registrations of any kind; connector counts its listeners. The audit daemon is known by its PID.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct

from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state import sockopts
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.state.sockopts import SOL_SOCKET, Option
from restorer.syscalls import NR

_ROUTE, _USERSOCK, _SOCK_DIAG, _XFRM, _AUDIT, _UEVENT = 0, 2, 4, 6, 9, 15
_NAMES = {
    _ROUTE: "route", _USERSOCK: "user", _SOCK_DIAG: "sock_diag", _XFRM: "xfrm", _AUDIT: "audit",
    7: "selinux", 8: "iscsi", 10: "fib_lookup", 11: "connector", 12: "netfilter", _UEVENT: "kobject_uevent",
    16: "generic", 18: "scsitransport", 20: "rdma", 21: "crypto", 22: "smc",
}  # fmt: skip
_TAKEN = {_ROUTE, _USERSOCK, _SOCK_DIAG, _XFRM, _AUDIT, _UEVENT}

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _LIST_MEMBERSHIPS = 1, 9
# NETLINK_PKTINFO, _BROADCAST_ERROR, _NO_ENOBUFS, _LISTEN_ALL_NSID, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK
_OPTIONS = (3, 4, 5, 8, 10, 11, 12)
_GROUPS_BYTES = 512
_ADDRESS = struct.Struct("=HHII")

_AUDIT_GET, _REQUEST, _ERROR = 1000, 1, 2
_HEADER = struct.Struct("=IHHII")
_STATUS_PID_OFFSET = _HEADER.size + 12  # struct audit_status: mask, enabled, failure, pid


@dataclass(frozen=True)
class NetlinkSocket:
    """`port` and `groups` are its address, port 0 being none; `peer` is (port, mask of groups), the kernel's
    being (0, 0).
    """

    type: int
    protocol: int
    port: int
    groups: tuple[int, ...]
    peer: tuple[int, int]
    options: tuple[Option, ...]
    flags: int
    kind: str = "netlink"


def capture(descriptor: Descriptor, sock: socket.socket) -> NetlinkSocket:
    """Describes a socket, `sock` being a duplicate. Raises Refused for families that keep more than can be
    read, and for messages that wait: only the kernel may send them.
    """
    protocol = sock.getsockopt(SOL_SOCKET, socket.SO_PROTOCOL)
    name = _NAMES.get(protocol, f"family {protocol}")
    if protocol not in _TAKEN:
        raise descriptor.refused(f"netlink socket ({name}) cannot be checkpointed", "close it first")
    if protocol == _AUDIT and _audit_daemon() == descriptor.pid:
        raise descriptor.refused(
            "netlink socket of the audit daemon cannot be checkpointed", "stop auditd first"
        )
    sockopts.check_filter(descriptor, sock, f"netlink ({name})")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    if poll.poll(0):
        raise descriptor.refused(
            f"netlink socket ({name}) with unread messages", "try again when it has read them"
        )
    port, _ = sock.getsockname()
    return NetlinkSocket(
        type=int(sock.type),
        protocol=protocol,
        port=port,
        groups=_groups(sock),
        peer=sock.getpeername(),
        options=(*sockopts.capture(sock, protocol), *_options(sock)),
        flags=descriptor.kept_flags,
    )


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """Group N is bit N - 1 of the words that the kernel gives (netlink_getsockopt)."""
    words = sock.getsockopt(_SOL_NETLINK, _LIST_MEMBERSHIPS, _GROUPS_BYTES)
    bits = int.from_bytes(words, "little")
    return tuple(number + 1 for number in range(bits.bit_length()) if bits >> number & 1)


def _options(sock: socket.socket) -> list[Option]:
    found = []
    for number in _OPTIONS:
        with contextlib.suppress(OSError):
            if sock.getsockopt(_SOL_NETLINK, number):
                found.append(Option(_SOL_NETLINK, number, struct.pack("<i", 1)))
    return found


def _audit_daemon() -> int:
    """The PID that is registered as audit daemon; 0 where there is none, or where there cannot be one."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _AUDIT) as sock:
        try:
            sock.send(_HEADER.pack(_HEADER.size, _AUDIT_GET, _REQUEST, 1, 0))
            answer = sock.recv(1 << 12, socket.MSG_DONTWAIT)
        except OSError as error:
            # Only the first user, PID and network namespaces have an audit daemon (audit_netlink_ok).
            if error.errno in (errno.ECONNREFUSED, errno.EPERM, errno.EAGAIN):
                return 0
            raise
    if _HEADER.unpack_from(answer)[1] == _ERROR:
        return 0
    return int(struct.unpack_from("=I", answer, _STATUS_PID_OFFSET)[0])


def describe(state: NetlinkSocket) -> str:
    """A few words for messages."""
    name = f"netlink socket ({_NAMES.get(state.protocol, state.protocol)})"
    return f"{name}, port {state.port}" if state.port else name


def emit(state: NetlinkSocket, image: Image, opener: Opener, about: str) -> Slot:
    """Makes the socket in the launcher."""
    with image.about(f"{about}: {describe(state)}"):
        fd = opener.open(NR.socket, socket.AF_NETLINK, state.type | socket.SOCK_CLOEXEC, state.protocol)
    sockopts.emit(state.options, fd, image, about)
    taken = f"end whoever has netlink port {state.port}: a program in this network namespace"
    with image.about(f"{about}: {describe(state)}", taken):
        if state.port:
            _address(NR.bind, fd, (state.port, 0), image)
        for group in state.groups:
            number = opener.int32(group)
            image.shared.syscall(NR.setsockopt, fd, _SOL_NETLINK, _ADD_MEMBERSHIP, number, 4)
        if state.peer != (0, 0):
            _address(NR.connect, fd, state.peer, image)
        image.shared.syscall(NR.fcntl, fd, fcntl.F_SETFL, state.flags)
    return fd


def _address(nr: int, fd: Slot, address: tuple[int, int], image: Image) -> None:
    packed = _ADDRESS.pack(socket.AF_NETLINK, 0, *address)
    image.shared.syscall(nr, fd, image.data(packed, align=4), len(packed))
