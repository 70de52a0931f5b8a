# SPDX-License-Identifier: Apache-2.0
"""One TCP segment as bytes: the FIN of a peer, which a raw socket of ours delivers."""

from __future__ import annotations

import socket
import struct

from restorer.firewall import Flow

_HOPS = 64
_FIN_ACK = 0x11
_HEADER_BYTES = 20


def fin(flow: Flow, seq: int, acknowledged: int, window: int) -> bytes:
    """An IP packet from the remote to the local side of `flow` that ends its data at `seq`."""
    ports = (flow.remote_port, flow.local_port)
    offset = _HEADER_BYTES // 4 << 4
    segment = struct.pack(">HHIIBBHHH", *ports, seq, acknowledged, offset, _FIN_ACK, window, 0, 0)
    total = _checksum(_pseudo(flow) + segment)
    return _ip(flow) + segment[:16] + struct.pack(">H", total) + segment[18:]


def address(flow: Flow) -> bytes:
    """The local side as a raw socket's destination: struct sockaddr_in or sockaddr_in6, without port."""
    if flow.family == socket.AF_INET:
        return struct.pack("=HH", flow.family, 0) + flow.local + bytes(8)
    return struct.pack("=HHI", flow.family, 0, 0) + flow.local + bytes(4)


def _ip(flow: Flow) -> bytes:
    if flow.family == socket.AF_INET6:
        fixed = struct.pack(">IHBB", 6 << 28, _HEADER_BYTES, socket.IPPROTO_TCP, _HOPS)
        return fixed + flow.remote + flow.local
    # The kernel fills in length, id and checksum of a header that is included (raw(7)).
    fixed = struct.pack(">BBHHHBBH", 0x45, 0, 2 * _HEADER_BYTES, 0, 0, _HOPS, socket.IPPROTO_TCP, 0)
    return fixed + flow.remote + flow.local


def _pseudo(flow: Flow) -> bytes:
    ends = flow.remote + flow.local
    if flow.family == socket.AF_INET6:
        return ends + struct.pack(">II", _HEADER_BYTES, socket.IPPROTO_TCP)
    return ends + struct.pack(">HH", socket.IPPROTO_TCP, _HEADER_BYTES)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
