# SPDX-License-Identifier: Apache-2.0
"""Packet sockets (packet(7)): protocol, interface, memberships, options, filter.

Interfaces are known by their names. A socket gets its protocol last of all, by bind(2): until then nothing
comes that its filter would not have let in. What PACKET_STATISTICS has counted cannot be set, and is not
looked at: reading it would take it away.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct

from restorer.program import Data, Image, Slot
from restorer.record import dataclass
from restorer.state import sockdiag, sockopts
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.state.sockdiag import Membership
from restorer.state.sockopts import Option
from restorer.syscalls import NR

_SOL_PACKET, _ADD_MEMBERSHIP = 263, 1
# PACKET_AUXDATA, _ORIGDEV, _VERSION, _RESERVE, _LOSS, _VNET_HDR, _TIMESTAMP, _TX_HAS_OFF, _QDISC_BYPASS,
# _IGNORE_OUTGOING, _VNET_HDR_SZ, _COPY_THRESH
_OPTIONS = (8, 9, 10, 12, 14, 15, 17, 19, 20, 23, 24, 7)
_SIOCGIFINDEX, _IFREQ_BYTES, _IFNAME_BYTES = 0x8933, 40, 16
_NO_INTERFACE = 0
_TYPES = {int(socket.SOCK_RAW): "raw", int(socket.SOCK_DGRAM): "dgram"}


@dataclass(frozen=True)
class PacketSocket:
    """`protocol` is an EtherType, 0 for none, `interface` a name, "" for all of them. `memberships` have the
    names of their interfaces.
    """

    type: int
    protocol: int
    interface: str
    memberships: tuple[tuple[str, Membership], ...]
    options: tuple[Option, ...]
    flags: int
    kind: str = "packet"


def capture(descriptor: Descriptor, sock: socket.socket, choices: Choices) -> PacketSocket:
    """Describes a socket, `sock` being a duplicate. Raises Refused for rings, groups, and, unless they may be
    lost, for packets that were not read.
    """
    if int(sock.type) not in _TYPES:
        raise descriptor.refused("SOCK_PACKET socket cannot be checkpointed", "close it first")
    found = sockdiag.packet_socket(descriptor.stat.st_ino)
    if found.has_ring:
        raise descriptor.refused(
            "packet socket with a ring buffer (PACKET_RX_RING, PACKET_TX_RING) cannot be checkpointed",
            "close it first; tcpdump and what else uses libpcap can be started again",
        )
    if found.has_fanout:
        raise descriptor.refused("packet socket of a fanout group cannot be checkpointed", "close it first")
    sockopts.check_filter(descriptor, sock, "packet")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    if poll.poll(0) and not choices.skip_in_flight:
        raise descriptor.refused(
            "packet socket with packets, or an error, that were not read",
            "try again when they are read, or see --skip-in-flight",
        )
    return PacketSocket(
        type=int(sock.type),
        protocol=found.protocol,
        interface=_name(descriptor, found.interface),
        memberships=tuple((_name(descriptor, one.interface), one) for one in found.memberships),
        options=(*_options(sock), *sockopts.capture(sock, 0)),
        flags=descriptor.kept_flags,
    )


def _name(descriptor: Descriptor, index: int) -> str:
    """-1 is what the kernel leaves of an interface that has gone (packet_notifier)."""
    if index == _NO_INTERFACE:
        return ""
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):
        raise descriptor.refused("packet socket of an interface that has gone", "close it first") from None


def _options(sock: socket.socket) -> list[Option]:
    """Those in which it differs from a new one, which receives nothing, having no protocol."""
    with socket.socket(socket.AF_PACKET, sock.type, 0) as fresh:
        both = [(number, _get(sock, number), _get(fresh, number)) for number in _OPTIONS]
    return [Option(_SOL_PACKET, number, value) for number, value, new in both if value and value != new]


def _get(sock: socket.socket, number: int) -> bytes:
    try:
        return sock.getsockopt(_SOL_PACKET, number, 4)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return b""
        raise


def describe(state: PacketSocket) -> str:
    """A few words for messages."""
    where = f" on {state.interface}" if state.interface else ""
    return f"packet socket ({_TYPES[state.type]}, protocol {state.protocol:#06x}){where}"


def emit(state: PacketSocket, image: Image, opener: Opener, about: str) -> Slot:
    """Makes the socket in the launcher."""
    with image.about(f"{about}: {describe(state)}", "restore as root with CAP_NET_RAW"):
        fd = opener.open(NR.socket, socket.AF_PACKET, state.type | socket.SOCK_CLOEXEC, 0)
    sockopts.emit(state.options, fd, image, about)
    for name, member in state.memberships:
        with image.about(f"{about}: membership of a packet socket on {name}", _hint(name)):
            request = image.data(member.request(), align=4)
            _emit_index(name, request, fd, image)
            args = fd, _SOL_PACKET, _ADD_MEMBERSHIP, request, len(member.request())
            for _ in range(member.count):
                image.shared.syscall(NR.setsockopt, *args)
    with image.about(f"{about}: {describe(state)}", _hint(state.interface)):
        if state.protocol or state.interface:
            _emit_bind(state, fd, image)
        image.shared.syscall(NR.fcntl, fd, fcntl.F_SETFL, state.flags)
    return fd


def _hint(name: str) -> str:
    return f"is there an interface {name}?" if name else ""


def _emit_bind(state: PacketSocket, fd: Slot, image: Image) -> None:
    packed = struct.pack("=H", socket.AF_PACKET) + struct.pack(">H", state.protocol) + bytes(16)
    data = image.data(packed, align=4)
    if state.interface:
        _emit_index(state.interface, data + 4, fd, image)
    image.shared.syscall(NR.bind, fd, data, len(packed))


def _emit_index(name: str, place: Data, fd: Slot, image: Image) -> None:
    """Writes the index of an interface to `place`, 4 bytes."""
    program = image.shared
    request = image.data(name.encode().ljust(_IFREQ_BYTES, b"\0"))
    program.syscall(NR.ioctl, fd, _SIOCGIFINDEX, request)
    program.store(place, program.load(request + _IFNAME_BYTES, 4), 4)
