# SPDX-License-Identifier: Apache-2.0
"""Established TCP connections, by TCP_REPAIR (tcp(7), net/ipv4/tcp.c): sequence numbers, both queues,
options.

A connection is blocked by the firewall before it is looked at, or the kernel would go on taking and
acknowledging data that the image does not have. It is closed under TCP_REPAIR, which tells the peer
nothing. The launcher connects a socket under TCP_REPAIR, which sends nothing; the restored process, when
hardly anything can fail any more, takes the firewall away, and then the socket out of repair.

Of a half-closed connection our own FIN is queued like data. The peer's FIN has to arrive: we send it to
ourselves, by a raw socket, after the firewall is gone.
"""

from __future__ import annotations

import array
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from restorer import firewall
from restorer.errors import PrivilegeError
from restorer.firewall import Firewall, Flow
from restorer.program import ANY, Data, Image, Slot, exactly
from restorer.record import dataclass
from restorer.state import sockdiag, sockopts, tcpsegment
from restorer.state.descriptors import Descriptor
from restorer.state.sockopts import SO_PEEK_OFF, SO_REUSEADDR, SOL_SOCKET, Option
from restorer.syscalls import NR

ESTABLISHED, FIN_WAIT1, FIN_WAIT2, _CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 7, 8, 9, 11
_NAMES = {2: "SYN_SENT", 3: "SYN_RECV", 6: "TIME_WAIT", 12: "NEW_SYN_RECV", 13: "BOUND_INACTIVE"}
_WE_ENDED = (FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING)
_PEER_ENDED = (CLOSE_WAIT, LAST_ACK, CLOSING)

_TCP = socket.IPPROTO_TCP
_MAXSEG, _INFO, _REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ, _REPAIR_OPTIONS = 2, 11, 19, 20, 21, 22
_TIMESTAMP, _REPAIR_WINDOW, _ULP, _AO_INFO = 24, 29, 31, 40
_ON, _OFF, _OFF_QUIETLY = 1, 0, -1
_NO_QUEUE, _RECV_QUEUE, _SEND_QUEUE = 0, 1, 2
_OPTION_MSS, _OPTION_WINDOW, _OPTION_SACK, _OPTION_TIMESTAMP = 2, 3, 4, 8
_WITH_TIMESTAMPS, _WITH_SACK, _WITH_SCALE = 1, 2, 4
_SIOCOUTQNSD = 0x894B
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_BUF_LOCK = 32, 33, 72
_BOTH_LOCKED = 3
_PIECE_BYTES = 32768
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SEGMENT_BYTES = 1 << 16
_WAIT_MS = 5000
_POLLFD = struct.Struct("<ihh")
# Decided when the connection began, or measured on it: set by TCP_REPAIR_OPTIONS, or refused on a connection.
_OPTIONS_LEFT_OUT = {(_TCP, _MAXSEG), (_TCP, 23), (_TCP, 30)}


@dataclass(frozen=True)
class Connection:
    """What TCP_REPAIR takes. Sequence numbers are those of the first byte of `received` and of `sent`.

    `unsent` was written by the program and has never been in a segment; `window` is struct tcp_repair_window;
    `buffers` are SO_SNDBUF, SO_RCVBUF and SO_BUF_LOCK; `inside`: the other end is in the image, too.
    """

    state: int
    received_seq: int
    received: bytes
    sent_seq: int
    sent: bytes
    unsent: bytes
    fin_unsent: bool
    mss: int
    scales: tuple[int, int] | None
    sack: bool
    timestamp: int | None
    window: tuple[int, int, int, int, int]
    buffers: tuple[int, int, int]
    reuse: int

    @property
    def we_ended(self) -> bool:
        """The program has shut its side down."""
        return self.state in _WE_ENDED

    @property
    def peer_ended(self) -> bool:
        """The peer's FIN has come."""
        return self.state in _PEER_ENDED


def capture(descriptor: Descriptor, sock: socket.socket, blocker: Firewall) -> tuple[Connection, Flow]:
    """Reads a connection, `sock` being a duplicate, and leaves it blocked by `blocker` and otherwise as it
    was.

    Raises Refused for what TCP_REPAIR cannot bring back.
    """
    flow = flow_of(sock)
    state = _state(sock)
    _check(descriptor, sock, state)
    blocker.block(flow)
    # What was on its way into the socket when the firewall came has been taken in by now, or is lost.
    buffers = _buffers(sock)
    reuse = sock.getsockopt(SOL_SOCKET, SO_REUSEADDR)
    with _repaired(descriptor, sock, reuse):
        return _read(descriptor, sock, buffers, reuse), flow


def options(found: tuple[Option, ...]) -> tuple[Option, ...]:
    """Those of a connection's options that are set as on any other socket."""
    return tuple(
        one for one in found if (one.level, one.number) not in _OPTIONS_LEFT_OUT and not _is_special(one)
    )


def _is_special(option: Option) -> bool:
    return option.level == SOL_SOCKET and option.number in (SO_REUSEADDR, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE)


def flow_of(sock: socket.socket) -> Flow:
    """The connection as packets show it: an IPv6 socket may well speak IPv4."""
    (here, here_port, *_), (there, there_port, *_) = sock.getsockname(), sock.getpeername()
    local, remote = (socket.inet_pton(sock.family, host.partition("%")[0]) for host in (here, there))
    if sock.family == socket.AF_INET6 and local[:12] == remote[:12] == bytes(10) + b"\xff\xff":
        return Flow(socket.AF_INET, local[12:], here_port, remote[12:], there_port)
    return Flow(int(sock.family), local, here_port, remote, there_port)


def close_quietly(sock: socket.socket) -> None:
    """Makes the end of the process say nothing to the peer."""
    sock.setsockopt(_TCP, _REPAIR, _ON)


def _state(sock: socket.socket) -> int:
    return sock.getsockopt(_TCP, _INFO, 1)[0]


def _check(descriptor: Descriptor, sock: socket.socket, state: int) -> None:
    if state != ESTABLISHED and state not in (*_WE_ENDED, *_PEER_ENDED):
        name = _NAMES.get(state, f"state {state}")
        raise descriptor.refused(f"TCP connection in {name}", "try again when it is established")
    layer = sock.getsockopt(_TCP, _ULP, 16).partition(b"\0")[0]
    if layer:
        raise descriptor.refused(
            f"TCP connection with an upper layer in the kernel ({layer.decode()})", "close it first"
        )
    if sockdiag.has_tcp_signatures(sock) or _has_ao(sock):
        raise descriptor.refused("TCP connection with signatures (TCP_MD5SIG, TCP_AO)", "close it first")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLPRI)
    if any(events & select.POLLPRI for _, events in poll.poll(0)):
        raise descriptor.refused("TCP connection with unread urgent data", "try again when it has been read")
    if state in _PEER_ENDED and _bound_interface(sock):
        raise descriptor.refused(
            "TCP connection that the peer has ended, on a socket bound to an interface", "close it first"
        )


def _bound_interface(sock: socket.socket) -> bool:
    """Whether the socket takes packets of one interface only: those that we send ourselves come from
    another.
    """
    scoped = sock.family == socket.AF_INET6 and sock.getsockname()[3] != 0
    return scoped or bool(sock.getsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0"))


def _has_ao(sock: socket.socket) -> bool:
    """TCP_AO_INFO answers ENOENT where there are no keys, ENOPROTOOPT where the kernel has none."""
    try:
        sock.getsockopt(_TCP, _AO_INFO, 64)
    except OSError:
        return False
    return True


def _buffers(sock: socket.socket) -> tuple[int, int, int]:
    numbers = (socket.SO_SNDBUF, socket.SO_RCVBUF, _SO_BUF_LOCK)
    sizes = [sock.getsockopt(SOL_SOCKET, number) for number in numbers]
    return sizes[0], sizes[1], sizes[2]


@contextmanager
def _repaired(descriptor: Descriptor, sock: socket.socket, reuse: int) -> Iterator[None]:
    """TCP_REPAIR takes SO_REUSEADDR for itself (do_tcp_setsockopt), and peeking minds SO_PEEK_OFF."""
    offset = sockopts.peek_offset(sock)
    try:
        sock.setsockopt(_TCP, _REPAIR, _ON)
    except PermissionError:
        raise PrivilegeError(
            f"fd {descriptor.number}: reading a TCP connection is not allowed here (TCP_REPAIR)",
            "run as root with CAP_NET_ADMIN",
        ) from None
    with ExitStack() as undo:
        undo.callback(sock.setsockopt, SOL_SOCKET, SO_REUSEADDR, reuse)
        undo.callback(sock.setsockopt, _TCP, _REPAIR, _OFF_QUIETLY)
        if offset >= 0:
            undo.callback(sock.setsockopt, SOL_SOCKET, SO_PEEK_OFF, offset)
            sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, -1)
        yield


def _read(
    descriptor: Descriptor, sock: socket.socket, buffers: tuple[int, int, int], reuse: int
) -> Connection:
    state = _state(sock)
    _check(descriptor, sock, state)
    we_ended, peer_ended = state in _WE_ENDED, state in _PEER_ENDED
    received, received_end = _queue(sock, _RECV_QUEUE)
    queued, queued_end = _queue(sock, _SEND_QUEUE)
    if len(received) != _asked(sock, termios.FIONREAD):
        raise descriptor.refused("unread bytes of a TCP connection could not be read without taking them out")
    outstanding, not_sent = _asked(sock, termios.TIOCOUTQ), _asked(sock, _SIOCOUTQNSD)
    # A FIN counts as one byte behind the data; once it is acknowledged nothing is queued (FIN_WAIT2).
    queued_bytes = outstanding - (we_ended and outstanding > 0)
    fin_unsent = we_ended and not_sent > 0
    if len(queued) < queued_bytes:
        raise descriptor.refused("unsent bytes of a TCP connection could not be read without taking them out")
    # A segment stays whole until all of it is acknowledged (tcp_clean_rtx_queue).
    queued = queued[len(queued) - queued_bytes :]
    at = len(queued) - (not_sent - fin_unsent)
    scales, sack, stamped = _agreed(sock)
    return Connection(
        state=state,
        received_seq=(received_end - peer_ended - len(received)) & 0xFFFFFFFF,
        received=received,
        sent_seq=(queued_end - we_ended - len(queued)) & 0xFFFFFFFF,
        sent=queued[:at],
        unsent=queued[at:],
        fin_unsent=fin_unsent,
        mss=sock.getsockopt(_TCP, _MAXSEG),
        scales=scales,
        sack=sack,
        timestamp=sock.getsockopt(_TCP, _TIMESTAMP) & 0xFFFFFFFF if stamped else None,
        window=_window(sock, received_end - peer_ended),
        buffers=buffers,
        reuse=reuse,
    )


def _queue(sock: socket.socket, queue: int) -> tuple[bytes, int]:
    """The bytes in a queue, and the sequence number after them, FIN included."""
    sock.setsockopt(_TCP, _REPAIR_QUEUE, queue)
    end = sock.getsockopt(_TCP, _QUEUE_SEQ) & 0xFFFFFFFF
    # A send queue is read as a whole or not at all (tcp_peek_sndq).
    asked = termios.FIONREAD if queue == _RECV_QUEUE else termios.TIOCOUTQ
    room = _asked(sock, asked) + _SEGMENT_BYTES
    try:
        return sock.recv(room, socket.MSG_PEEK | socket.MSG_DONTWAIT), end
    except BlockingIOError:
        return b"", end


def _asked(sock: socket.socket, request: int) -> int:
    number = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), request, number)
    return number[0]


def _agreed(sock: socket.socket) -> tuple[tuple[int, int] | None, bool, bool]:
    """Window scales (ours to send, to receive), selective acknowledgement, timestamps: struct tcp_info."""
    info = sock.getsockopt(_TCP, _INFO, 8)
    flags, scales = info[5], info[6]
    return (
        (scales & 15, scales >> 4) if flags & _WITH_SCALE else None,
        bool(flags & _WITH_SACK),
        bool(flags & _WITH_TIMESTAMPS),
    )


def _window(sock: socket.socket, data_end: int) -> tuple[int, int, int, int, int]:
    """snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup: none lies behind the peer's data, since its FIN comes
    again.
    """
    wl1, send, largest, receive, wup = struct.unpack("=5I", sock.getsockopt(_TCP, _REPAIR_WINDOW, 20))
    return _not_after(wl1, data_end), send, largest, receive, _not_after(wup, data_end)


def _not_after(seq: int, limit: int) -> int:
    return limit & 0xFFFFFFFF if 0 < (seq - limit) & 0xFFFFFFFF < 1 << 31 else seq


def emit(connection: Connection, flags: int, fd: Slot, names: tuple[bytes, bytes], image: Image) -> None:
    """In the launcher: binds and connects `fd` under TCP_REPAIR, where no segment leaves; `names` are socket
    addresses, ours and the peer's.
    """
    program = image.shared
    # SO_REUSEADDR of a socket under repair is a force of its own: whoever has the port, it may be bound.
    _set(image, fd, _TCP, _REPAIR, struct.pack("<i", _ON))
    room = 2 * (len(connection.received) + len(connection.sent) + len(connection.unsent)) + (1 << 20)
    for number in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        _set(image, fd, SOL_SOCKET, number, struct.pack("<i", room))
    for queue, seq in ((_SEND_QUEUE, connection.sent_seq), (_RECV_QUEUE, connection.received_seq)):
        _set(image, fd, _TCP, _REPAIR_QUEUE, struct.pack("<i", queue))
        _set(image, fd, _TCP, _QUEUE_SEQ, struct.pack("<I", seq))
    for nr, name in zip((NR.bind, NR.connect), names, strict=True):
        program.syscall(nr, fd, image.data(name), len(name))
    _set(image, fd, _TCP, _REPAIR_OPTIONS, _pack_options(connection))
    if connection.timestamp is not None:
        _set(image, fd, _TCP, _TIMESTAMP, struct.pack("<I", connection.timestamp))
    for queue, content in ((_RECV_QUEUE, connection.received), (_SEND_QUEUE, connection.sent)):
        _set(image, fd, _TCP, _REPAIR_QUEUE, struct.pack("<i", queue))
        for piece in _pieces(content):
            size, data = len(piece), image.data(piece)
            program.syscall(NR.sendto, fd, data, size, _SEND_FLAGS, 0, 0, expect=exactly(size))
    if _ends_early(connection):
        program.syscall(NR.shutdown, fd, socket.SHUT_WR)
    _set(image, fd, _TCP, _REPAIR_WINDOW, struct.pack("=5I", *connection.window))
    _set(image, fd, _TCP, _REPAIR_QUEUE, struct.pack("<i", _NO_QUEUE))
    program.syscall(NR.fcntl, fd, fcntl.F_SETFL, flags)


def _ends_early(connection: Connection) -> bool:
    """Whether our FIN was under way before the peer's came: queued as sent, it is sent again until
    answered.
    """
    return connection.state in (FIN_WAIT1, FIN_WAIT2, CLOSING) and not connection.fin_unsent


def _pack_options(connection: Connection) -> bytes:
    """struct tcp_repair_opt, one each."""
    found = [(_OPTION_MSS, connection.mss)]
    if connection.scales:
        found.append((_OPTION_WINDOW, connection.scales[0] | connection.scales[1] << 16))
    if connection.sack:
        found.append((_OPTION_SACK, 0))
    if connection.timestamp is not None:
        found.append((_OPTION_TIMESTAMP, 0))
    return b"".join(struct.pack("=II", *one) for one in found)


def _pieces(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), _PIECE_BYTES):
        yield content[at : at + _PIECE_BYTES]


class _Talking:
    """A connection that talks again, in the restored process.

    A peer that has forgotten it answers with a reset, at once or while we go on. It is for the program to
    find that out, and a call of ours would take the error away from it (sock_error).
    """

    def __init__(self, number: int, image: Image) -> None:
        self._number, self._image = number, image
        self._result, self._state = image.slot(), image.slot()
        self._info, self._length = image.reserve(8), image.data(struct.pack("<i", 1), align=4)

    def call(self, nr: int, *args: Data | int, wanted: int = 0) -> None:
        """A call on the socket unless there has been a reset; it gives `wanted`, or there is one now."""
        program = self._image.main
        with self._unless_reset():
            program.syscall(nr, self._number, *args, result=self._result, expect=ANY)
            with program.unless_eq(self._result, wanted), self._unless_reset():
                program.check_eq(self._result, wanted)

    @contextmanager
    def _unless_reset(self) -> Iterator[None]:
        program = self._image.main
        program.syscall(NR.getsockopt, self._number, _TCP, _INFO, self._info, self._length)
        program.load(self._info, 1, result=self._state)
        with program.unless_eq(self._state, _CLOSE):
            yield


def _set(
    image: Image, fd: Slot | int, level: int, number: int, value: bytes, *, in_main: bool = False
) -> None:
    program = image.main if in_main else image.shared
    program.syscall(NR.setsockopt, fd, level, number, image.data(value, align=4), len(value))


def emit_unblock(table: str, image: Image) -> None:
    """In the restored process, before credentials: takes the firewall's table away, if one was left."""
    if not table:
        return
    request = firewall.removal(table)
    answer = image.reserve(firewall.ANSWER_BYTES)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    program = image.main
    with image.about(f"nftables table {table}", "restore as root with CAP_NET_ADMIN"):
        netlink = program.call(NR.socket, socket.AF_NETLINK, kind, firewall.NETLINK_NETFILTER)
        program.syscall(NR.sendto, netlink, image.data(request), len(request), 0, 0, 0)
        dontwait = socket.MSG_DONTWAIT
        program.syscall(NR.recvfrom, netlink, answer, firewall.ANSWER_BYTES, dontwait, 0, 0)
        program.check_eq(program.load(answer + firewall.ERROR_OFFSET, 4), 0)
        program.syscall(NR.close, netlink)


def emit_resume(connection: Connection, flow: Flow, number: int, image: Image) -> None:
    """In the restored process, where the socket is `number`, once nothing is blocked: it talks again."""
    # Out of repair the kernel probes, which has the peer acknowledge what it got.
    _set(image, number, _TCP, _REPAIR, struct.pack("<i", _OFF), in_main=True)
    _set(image, number, SOL_SOCKET, SO_REUSEADDR, struct.pack("<i", connection.reuse), in_main=True)
    talking = _Talking(number, image)
    for piece in _pieces(connection.unsent):
        talking.call(NR.sendto, image.data(piece), len(piece), _SEND_FLAGS, 0, 0, wanted=len(piece))
    if connection.state in (FIN_WAIT1, CLOSING) and connection.fin_unsent:
        talking.call(NR.shutdown, socket.SHUT_WR)
    if connection.peer_ended:
        _emit_fin(connection, flow, number, image)
    if connection.state == LAST_ACK:
        talking.call(NR.shutdown, socket.SHUT_WR)
    send, receive, locked = connection.buffers
    # socket(7): the kernel doubles what it is given.
    for option, size in ((_SO_SNDBUFFORCE, send), (_SO_RCVBUFFORCE, receive)):
        _set(image, number, SOL_SOCKET, option, struct.pack("<i", size // 2), in_main=True)
    _set(image, number, SOL_SOCKET, _SO_BUF_LOCK, struct.pack("<i", locked & _BOTH_LOCKED), in_main=True)


def _emit_fin(connection: Connection, flow: Flow, number: int, image: Image) -> None:
    """The peer's FIN, as the loopback interface delivers it, and the wait for it to be taken in."""
    program = image.main
    seq = (connection.received_seq + len(connection.received)) & 0xFFFFFFFF
    window = connection.window[1] >> (connection.scales[0] if connection.scales else 0)
    packet = tcpsegment.fin(flow, seq, connection.sent_seq, min(window, 0xFFFF))
    target = tcpsegment.address(flow)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    raw = program.call(NR.socket, flow.family, kind, socket.IPPROTO_RAW)
    data = image.data(packet)
    address = image.data(target)
    program.syscall(NR.sendto, raw, data, len(packet), 0, address, len(target), expect=exactly(len(packet)))
    program.syscall(NR.close, raw)
    waiting = image.data(_POLLFD.pack(number, select.POLLRDHUP, 0))
    program.syscall(NR.poll, waiting, 1, _WAIT_MS, expect=exactly(1))
    # With others where there has been a reset; none is a higher bit.
    program.check_ge(program.load(waiting + 6, 2), select.POLLRDHUP)
