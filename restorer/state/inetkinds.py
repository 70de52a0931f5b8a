# SPDX-License-Identifier: Apache-2.0
"""Which protocols of the internet sockets are taken, and what getpeername does not tell of some of them."""

from __future__ import annotations

import socket

from restorer.state.descriptors import Descriptor
from restorer.state.sockopts import IPPROTO_UDPLITE

MPTCP = 262
_DATAGRAMS = {
    int(socket.IPPROTO_UDP): "UDP",
    IPPROTO_UDPLITE: "UDP-Lite",
    int(socket.IPPROTO_ICMP): "ping",
    int(socket.IPPROTO_ICMPV6): "ping",
}
_TABLES = {"ping": ("icmp", "icmp6"), "raw": ("raw", "raw6")}


def name_of(kind: int, protocol: int) -> str:
    """In words; "" for what is not taken."""
    if kind == socket.SOCK_STREAM:
        return "TCP" if protocol in (socket.IPPROTO_TCP, MPTCP) else ""
    if kind == socket.SOCK_RAW:
        return "raw"
    return _DATAGRAMS.get(protocol, "") if kind == socket.SOCK_DGRAM else ""


def check(descriptor: Descriptor, sock: socket.socket, protocol: int) -> str:
    """The name. Raises Refused for what is not taken, or could not be made again."""
    name = name_of(int(sock.type), protocol)
    if not name:
        raise descriptor.refused(
            f"inet socket of type {int(sock.type)}, protocol {protocol} cannot be checkpointed",
            "close it first",
        )
    if name == "ping":
        try:
            socket.socket(sock.family, sock.type, protocol).close()
        except PermissionError:
            raise descriptor.refused(
                "ping socket could not be made again here", "widen net.ipv4.ping_group_range to group 0"
            ) from None
    return name


def portless_peer(name: str, family: int, inode: int) -> tuple[str, int, int] | None:
    """Whom a raw or ping socket is connected to: getpeername wants a port, which the peer has not."""
    for table in _TABLES.get(name, ()):
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            for words in map(str.split, file.read().splitlines()[1:]):
                if int(words[9]) == inode:
                    return _address(family, words[2])
    return None


def _address(family: int, text: str) -> tuple[str, int, int] | None:
    """Words of 32 bits in the order of the machine, and a port: "0100007F:0000"."""
    words, _, port = text.partition(":")
    packed = b"".join(int(words[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(words), 8))
    return (socket.inet_ntop(family, packed), int(port, 16), 0) if any(packed) else None
