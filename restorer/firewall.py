# SPDX-License-Identifier: Apache-2.0
"""Keeps TCP connections quiet while nobody holds them: an nftables table of our own that drops their
segments.

    with Firewall() as firewall:
        firewall.block(Flow(...))       # from now on nothing of it gets in or out
        ...
        firewall.keep("image shop")   # outlives this process, under firewall.table

Between checkpoint and restore a connection has no socket, and the kernel would answer the peer's next segment
with RST. While a checkpoint is at work its table belongs to a netlink socket (NFT_TABLE_F_OWNER), so that
it goes with this process, however it ends. `removal` is what a restore sends to take the kept table away.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from types import TracebackType

from restorer.errors import FeatureError, PrivilegeError, RestorerError
from restorer.record import dataclass

__all__ = ["ANSWER_BYTES", "ERROR_OFFSET", "NETLINK_NETFILTER", "Firewall", "Flow", "removal", "remove"]

NETLINK_NETFILTER = 12
# struct nlmsghdr, then the int of struct nlmsgerr
ERROR_OFFSET = 16
ANSWER_BYTES = 4096

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM = 0, 1, 2, 3, 6, 9, 12
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND = 1, 4, 0x300, 0x400, 0x800
_NLMSG_ERROR = 2
_INET = 1
_OWNER = 2
_NESTED = 0x8000
_NEVER = -300  # NF_IP_PRI_RAW: before connection tracking, whose view of the flow stays as it is
_LOCAL_IN, _LOCAL_OUT = 1, 3
_FIRST_REGISTER = 8  # NFT_REG32_00
_ELEMENTS_MAX = 256
_META_NFPROTO, _META_L4PROTO = 15, 16
_NETWORK, _TRANSPORT = 1, 2
# nft's numbers of types, with which `nft list ruleset` shows the sets in words
_TYPES: dict[int, tuple[int, ...]] = {socket.AF_INET: (7, 7, 13, 13), socket.AF_INET6: (8, 8, 13, 13)}
_SETS: dict[int, str] = {socket.AF_INET: "four", socket.AF_INET6: "six"}
# family -> bytes of an address, offset of the source address
_HEADERS: dict[int, tuple[int, int]] = {socket.AF_INET: (4, 12), socket.AF_INET6: (16, 8)}
_HINT = "nftables is needed (CONFIG_NF_TABLES_INET), and CAP_NET_ADMIN"


@dataclass(frozen=True)
class Flow:
    """One connection as its packets show it; addresses are packed, `remote` is the peer's side."""

    family: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int

    @property
    def reverse(self) -> Flow:
        """The same connection as the peer has it."""
        return Flow(self.family, self.remote, self.remote_port, self.local, self.local_port)

    def key(self) -> bytes:
        """The element of our sets: remote and local address, remote and local port, each in words of 4
        bytes.
        """
        return self.remote + self.local + struct.pack(">HxxHxx", self.remote_port, self.local_port)


class Firewall:
    """The table of one checkpoint. `table` is the name under which `keep` leaves one behind."""

    def __init__(self) -> None:
        self.table = f"restorer-{secrets.token_hex(8)}"
        self.flows: set[Flow] = set()
        self._own = f"{self.table}-checkpoint"
        self._netlink: socket.socket | None = None

    def __enter__(self) -> Firewall:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def block(self, flow: Flow) -> None:
        """Drops what belongs to `flow`, in both directions, until `release`."""
        if self._netlink is None:
            self._netlink = _open()
            _send(self._netlink, _table(self._own, "a checkpoint is at work", _OWNER))
        if flow not in self.flows:
            _send(self._netlink, _elements(self._own, [flow]))
            self.flows.add(flow)

    def keep(self, comment: str) -> None:
        """Drops what belongs to `lasting` connections until `table` is removed; without any there is no
        table.
        """
        wanted = sorted(self.lasting, key=Flow.key)
        if not wanted:
            return
        with _open() as netlink:
            messages = _table(self.table, comment, 0)
            for at in range(0, len(wanted), _ELEMENTS_MAX):
                messages += _elements(self.table, wanted[at : at + _ELEMENTS_MAX])
            _send(netlink, messages)

    @property
    def lasting(self) -> list[Flow]:
        """Those blocked connections whose other end is not blocked as well: it may speak before a restore."""
        return [flow for flow in self.flows if flow.reverse not in self.flows]

    def release(self) -> None:
        """Lets all of `block` through again."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self.flows.clear()


def remove(table: str) -> None:
    """Takes away what `keep` left, if it is still there. Raises PrivilegeError, FeatureError."""
    if table:
        with _open() as netlink:
            _send(netlink, _removal(table))


def tables() -> list[str]:
    """The names of all tables of the family that ours belong to."""
    found: list[str] = []
    with _open() as netlink:
        netlink.send(_message(_GETTABLE, b"", _DUMP))
        while True:
            data, at = netlink.recv(1 << 16), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind != _NFTABLES << 8 | _NEWTABLE:
                    return found
                size = struct.unpack_from("=H", data, at + 20)[0]
                found.append(data[at + 24 : at + 20 + size].rstrip(b"\0").decode())
                at += -(-length // 4) * 4


def removal(table: str) -> bytes:
    """What to send to NETLINK_NETFILTER to take `table` away; the answer ends in an error number, 0 for done.

    The table is made first if it is not there (NFT_MSG_DESTROYTABLE is newer than the kernels we run on), so
    that the one answer is always the same.
    """
    return _batch(_removal(table))


def _removal(table: str) -> list[bytes]:
    name = _attribute(1, _text(table))
    return [_message(_NEWTABLE, name, _CREATE), _message(_DELTABLE, name)]


def _open() -> socket.socket:
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        netlink.bind((0, 0))
    except OSError as error:
        raise FeatureError(
            f"no firewall for TCP connections: {os.strerror(error.errno or 0)}", _HINT
        ) from None
    return netlink


def _send(netlink: socket.socket, messages: list[bytes]) -> None:
    """One transaction: all of it, or nothing. The kernel answers from within send (nfnetlink_rcv)."""
    netlink.send(_batch(messages))
    data = netlink.recv(1 << 16, socket.MSG_DONTWAIT)
    kind, number = struct.unpack_from("=4xH", data)[0], -struct.unpack_from("=i", data, ERROR_OFFSET)[0]
    if kind != _NLMSG_ERROR:
        raise RestorerError("the kernel's firewall gave an answer that is none", _HINT)
    if number in (errno.EPERM, errno.EACCES):
        raise PrivilegeError("blocking TCP connections is not allowed here", "run as root with CAP_NET_ADMIN")
    if number:
        raise FeatureError(f"the firewall for TCP connections failed: {os.strerror(number)}", _HINT)


def _batch(messages: list[bytes]) -> bytes:
    """The last message alone asks for an answer; errors are answered without being asked for."""
    *others, last = messages
    length, kind, flags = struct.unpack_from("=IHH", last)
    asking = struct.pack("=IHH", length, kind, flags | _ACK) + last[8:]
    ends = (_control(_BATCH_BEGIN), _control(_BATCH_END))
    return b"".join((ends[0], *others, asking, ends[1]))


def _control(kind: int) -> bytes:
    return struct.pack("=IHHII", 20, kind, _REQUEST, 0, 0) + struct.pack(">BBH", 0, 0, _NFTABLES)


def _message(kind: int, attributes: bytes, flags: int = 0) -> bytes:
    header = struct.pack("=IHHII", 20 + len(attributes), _NFTABLES << 8 | kind, _REQUEST | flags, 0, 0)
    return header + struct.pack(">BBH", _INET, 0, 0) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, *values: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(values))


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _number(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def _table(name: str, comment: str, flags: int) -> list[bytes]:
    """The messages that make a table with its sets, chains and rules."""
    table = _attribute(1, _text(name))
    # Nobody parses the comment but nft: type 0, length, text (libnftnl's NFTNL_UDATA_TABLE_COMMENT)
    shown = _text(comment[:120])
    extra = _attribute(2, _number(flags)) + _attribute(6, bytes((0, len(shown))) + shown)
    messages = [_message(_NEWTABLE, table + extra, _CREATE)]
    for index, family in enumerate(_SETS):
        messages.append(_message(_NEWSET, table + _set(family, index + 1), _CREATE))
    for chain, hook in (("input", _LOCAL_IN), ("output", _LOCAL_OUT)):
        place = _nested(4, _attribute(1, _number(hook)), _attribute(2, _number(_NEVER)))
        body = table + _attribute(3, _text(chain)) + place + _attribute(7, _text("filter"))
        messages.append(_message(_NEWCHAIN, body, _CREATE))
        for family in _SETS:
            rule = table + _attribute(2, _text(chain)) + _nested(4, *_rule(family, hook))
            messages.append(_message(_NEWRULE, rule, _CREATE | _APPEND))
    return messages


def _key_bytes(family: int) -> int:
    return 2 * _HEADERS[family][0] + 8


def _set(family: int, number: int) -> bytes:
    kind = 0
    for one in _TYPES[family]:
        kind = kind << 6 | one
    return b"".join(
        (
            _attribute(2, _text(_SETS[family])),
            _attribute(3, _number(0)),
            _attribute(4, _number(kind)),
            _attribute(5, _number(_key_bytes(family))),
            _attribute(10, _number(number)),
        )
    )


def _elements(table: str, flows: list[Flow]) -> list[bytes]:
    messages = []
    for family, name in _SETS.items():
        keys = [flow.key() for flow in flows if flow.family == family]
        if keys:
            listed = _nested(3, *(_nested(1, _nested(1, _attribute(1, key))) for key in keys))
            body = _attribute(1, _text(table)) + _attribute(2, _text(name)) + listed
            messages.append(_message(_NEWSETELEM, body, _CREATE))
    return messages


def _rule(family: int, hook: int) -> list[bytes]:
    """For a packet of ours: the key of `Flow` in the registers, looked up, dropped."""
    size, source = _HEADERS[family]
    remote, local = (source, source + size) if hook == _LOCAL_IN else (source + size, source)
    remote_port, local_port = (0, 2) if hook == _LOCAL_IN else (2, 0)
    # NFPROTO_IPV4 and NFPROTO_IPV6 have the numbers of the address families.
    expressions = _is(_META_NFPROTO, family) + _is(_META_L4PROTO, socket.IPPROTO_TCP)
    register = _FIRST_REGISTER
    loads = ((_NETWORK, remote, size), (_NETWORK, local, size))
    for base, offset, length in (*loads, (_TRANSPORT, remote_port, 2), (_TRANSPORT, local_port, 2)):
        numbers = zip((1, 2, 3, 4), (register, base, offset, length), strict=True)
        fields = (_attribute(kind, _number(value)) for kind, value in numbers)
        expressions.append(_expression("payload", *fields))
        register += -(-length // 4)
    lookup = (_attribute(1, _text(_SETS[family])), _attribute(2, _number(_FIRST_REGISTER)))
    drop = _nested(2, _nested(2, _attribute(1, _number(0))))
    verdict = (_attribute(1, _number(0)), drop)
    return [*expressions, _expression("lookup", *lookup), _expression("immediate", *verdict)]


def _is(key: int, value: int) -> list[bytes]:
    load = (_attribute(1, _number(_FIRST_REGISTER)), _attribute(2, _number(key)))
    compared = _nested(3, _attribute(1, bytes((value,))))
    compare = (_attribute(1, _number(_FIRST_REGISTER)), _attribute(2, _number(0)), compared)
    return [_expression("meta", *load), _expression("cmp", *compare)]


def _expression(name: str, *fields: bytes) -> bytes:
    return _nested(1, _attribute(1, _text(name)), _nested(2, *fields))
