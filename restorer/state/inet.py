# SPDX-License-Identifier: Apache-2.0
"""TCP, UDP, raw and ping sockets: unbound, bound, listening, connected datagrams, TCP connections.

Connections are refused, or come back reset by the peer, as if the network had failed (tcp_close), or come
back (given a firewall: tcp.py). Those that are just being made are begun again, from the same port.
Connections in an accept queue which the program has not taken have no fd to read them by: they are refused,
or reset on demand.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import termios

from restorer.firewall import Firewall, Flow
from restorer.program import Data, Image, Slot, exactly, ok_or
from restorer.record import dataclass
from restorer.state import inetkinds, multicast, sockdiag, sockopts, tcp, timewait, udpqueues
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.state.sockopts import SO_LINGER, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET, Option
from restorer.state.udpqueues import Datagram
from restorer.syscalls import NR

_TCP_INFO = 11
_TCP_SYN_SENT, _TCP_CLOSE = 2, 7
_SOMAXCONN = 4096
_IPV6_V6ONLY = 26
_PIECE_BYTES = 32768
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_OVER = ("reset", "ended")
_WITH_NAME = ("bound", "listening", "connected", "connecting")
_CONNECTION_HINT = (
    "the address must be on this machine, no one else have the connection, and CAP_NET_ADMIN given"
)
_LOOPBACK = ("127.0.0.1", 0)


@dataclass(frozen=True)
class InetSocket:
    """`state` is unbound, bound, listening, connected (UDP), connecting, established, reset or ended (by both
    sides); addresses are (host, port, scope). `unread` is what a connection that is over has still to give.
    """

    family: int
    type: int
    protocol: int
    state: str
    local: tuple[str, int, int] | None
    remote: tuple[str, int, int] | None
    backlog: int
    lost_connections: int
    options: tuple[Option, ...]
    flags: int
    connection: tcp.Connection | None = None
    flow: Flow | None = None
    unread: bytes = b""
    datagrams: tuple[Datagram, ...] = ()
    kind: str = "inet"

    @property
    def is_connection(self) -> bool:
        """Whether it is to be reset or closed quietly with the original, through an fd of it."""
        return self.state in ("established", "reset")


def capture(descriptor: Descriptor, sock: socket.socket, choices: Choices) -> InetSocket:
    """Describes a socket, `sock` being a duplicate. Raises Refused for connections unless `choices` say what
    becomes of them; a firewall then blocks them.
    """
    protocol = sock.getsockopt(SOL_SOCKET, socket.SO_PROTOCOL)
    name = inetkinds.check(descriptor, sock, protocol)
    sockopts.check_filter(descriptor, sock, name)
    local = _address(sock.getsockname())
    remote = _remote(sock) or inetkinds.portless_peer(name, sock.family, descriptor.stat.st_ino)
    state = _state(sock, protocol, local, remote)
    over = state in _OVER
    if state == "connecting":
        remote = sockdiag.inet_target(sock, descriptor.stat.st_ino)
        if remote is None:
            raise descriptor.refused("a TCP connection has just been made or refused", "try again")
    if state == "connection":
        if choices.firewall is not None:
            return _established(descriptor, sock, protocol, choices.firewall)
        if not choices.tcp_close:
            raise descriptor.refused(
                f"TCP connection {_text(local)} to {_text(remote)} cannot be checkpointed",
                "close connections first, or see --tcp close and --tcp established",
            )
        state = "reset"
    queue = _queue(descriptor, sock, protocol) if state == "listening" else sockdiag.Listener(0, 0)
    if queue.pending and not (choices.tcp_close or choices.skip_in_flight):
        raise descriptor.refused(
            f"{queue.pending} TCP connections to {_text(local)} wait to be accepted",
            "try again when they are, or see --skip-in-flight",
        )
    return InetSocket(
        family=int(sock.family),
        type=int(sock.type),
        protocol=protocol,
        state=state,
        local=local if state in _WITH_NAME and local and local[1] else None,
        remote=remote if state in ("connected", "connecting") else None,
        backlog=queue.backlog,
        lost_connections=queue.pending,
        options=(*_options(sock, protocol, state), *_groups(descriptor, sock)),
        flags=descriptor.kept_flags,
        unread=_unread(sock) if over else b"",
        datagrams=() if name == "TCP" else udpqueues.capture(descriptor, sock, protocol, choices),
    )


def _established(
    descriptor: Descriptor, sock: socket.socket, protocol: int, firewall: Firewall
) -> InetSocket:
    if protocol != socket.IPPROTO_TCP:
        raise descriptor.refused(
            "multipath TCP connection cannot be checkpointed", "close it, or see --tcp close"
        )
    options = tcp.options(sockopts.capture(sock, protocol))
    connection, flow = tcp.capture(descriptor, sock, firewall)
    return InetSocket(
        family=int(sock.family),
        type=int(sock.type),
        protocol=protocol,
        state="established",
        local=_address(sock.getsockname()),
        remote=_address(sock.getpeername()),
        backlog=0,
        lost_connections=0,
        options=options,
        flags=descriptor.kept_flags,
        connection=connection,
        flow=flow,
    )


def _options(sock: socket.socket, protocol: int, state: str) -> tuple[Option, ...]:
    """Of a connection, TCP_MAXSEG tells what was agreed on, not what was asked for."""
    options = sockopts.capture(sock, protocol)
    if state not in _OVER:
        return options
    return tuple(one for one in options if (one.level, one.number) != (socket.IPPROTO_TCP, socket.TCP_MAXSEG))


def _groups(descriptor: Descriptor, sock: socket.socket) -> tuple[Option, ...]:
    return multicast.capture(descriptor, sock) if sock.type != socket.SOCK_STREAM else ()


def _state(sock: socket.socket, protocol: int, local: tuple[str, int, int] | None, remote: object) -> str:
    if sock.type == socket.SOCK_STREAM:
        if sock.getsockopt(SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "listening"
        tcp_state = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
        if tcp_state == _TCP_SYN_SENT and protocol == socket.IPPROTO_TCP:
            return "connecting"
        if tcp_state != _TCP_CLOSE:
            return "connection"
        events = _events(sock)
        if events & (select.POLLRDHUP | select.POLLERR):
            return "reset" if events & select.POLLERR else "ended"
    elif remote:
        return "connected"
    return "bound" if local and local[1] else "unbound"


def _events(sock: socket.socket) -> int:
    """A closed socket which never was connected reports a hang-up only (tcp_poll)."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
    return dict(poll.poll(0)).get(sock.fileno(), 0)


def _unread(sock: socket.socket) -> bytes:
    """What a connection that is over has left; not asked for if nothing, or its error would be taken."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return sock.recv(count[0], socket.MSG_PEEK | socket.MSG_DONTWAIT) if count[0] else b""


def _queue(descriptor: Descriptor, sock: socket.socket, protocol: int) -> sockdiag.Listener:
    """MPTCP keeps its queue elsewhere: it gets the system's usual backlog."""
    if protocol != socket.IPPROTO_TCP:
        return sockdiag.Listener(0, _SOMAXCONN)
    return sockdiag.inet_listeners(sock.family, protocol)[descriptor.stat.st_ino]


def reset_at_end(sock: socket.socket) -> None:
    """Makes the end of the process reset a connection, where it would say goodbye and hold on to the port."""
    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("<ii", 1, 0))


def _address(address: object) -> tuple[str, int, int] | None:
    if not isinstance(address, tuple):
        return None
    return (str(address[0]).partition("%")[0], int(address[1]), int(address[3]) if len(address) == 4 else 0)


def _remote(sock: socket.socket) -> tuple[str, int, int] | None:
    try:
        return _address(sock.getpeername())
    except OSError:
        return None


def _text(address: tuple[str, int, int] | None) -> str:
    return f"{address[0]}:{address[1]}" if address else "?"


def describe(state: InetSocket) -> str:
    """A few words for messages: "TCP 0.0.0.0:8080, listening"."""
    name = inetkinds.name_of(state.type, state.protocol)
    return f"{name} {_text(state.local)}, {state.state}" if state.local else f"{name} socket, {state.state}"


def pack(family: int, address: tuple[str, int, int]) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    host, port, scope = address
    raw = socket.inet_pton(family, host)
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(">H", port) + raw + bytes(8)
    return struct.pack("=H", family) + struct.pack(">HI", port, 0) + raw + struct.pack("=I", scope)


def emit(state: InetSocket, image: Image, opener: Opener, about: str) -> Slot:
    """Makes the socket in the launcher: bound, listening or reset as it was."""
    with image.about(f"{about}: {describe(state)}", "the network must be set up as it was"):
        kind = state.type | socket.SOCK_CLOEXEC
        fd = opener.open(NR.socket, state.family, kind, state.protocol)
        if state.state in _OVER:
            _emit_over(state, fd, image, opener)
    sockopts.emit(state.options, fd, image, about)
    with image.about(f"{about}: {describe(state)}", _hint(state)):
        if state.connection:
            _emit_connection(state, state.connection, fd, image)
            return fd
        if state.local:
            _emit_bind(state, state.local, fd, image, opener)
            udpqueues.emit(state.datagrams, state.local[1], image, opener)
        if state.remote and state.state == "connected":
            address = image.data(pack(state.family, state.remote))
            image.shared.syscall(NR.connect, fd, address, len(pack(state.family, state.remote)))
        image.shared.syscall(NR.fcntl, fd, fcntl.F_SETFL, state.flags)
    return fd


def _emit_connection(state: InetSocket, connection: tcp.Connection, fd: Slot, image: Image) -> None:
    assert state.local and state.remote
    names = pack(state.family, state.local), pack(state.family, state.remote)
    tcp.emit(connection, state.flags, fd, names, image)


def emit_resume(state: InetSocket, number: int, image: Image) -> None:
    """Lets a connection speak again, in the restored process, where it is `number`."""
    if state.connection and state.flow:
        with image.about(f"fd {number}: {describe(state)}", _CONNECTION_HINT):
            tcp.emit_resume(state.connection, state.flow, number, image)


def emit_late(state: InetSocket, number: int, image: Image) -> None:
    """Begins to connect, as the last thing that can be seen from outside."""
    if state.state == "connecting" and state.remote:
        packed, main = pack(state.family, state.remote), image.main
        what = f"fd {number}: TCP connection to {_text(state.remote)}"
        with image.about(what, "the network must be as it was"):
            main.syscall(NR.fcntl, number, fcntl.F_SETFL, state.flags | os.O_NONBLOCK)
            under_way = ok_or(errno.EINPROGRESS)
            main.syscall(NR.connect, number, image.data(packed), len(packed), expect=under_way)
            main.syscall(NR.fcntl, number, fcntl.F_SETFL, state.flags)


def _hint(state: InetSocket) -> str:
    if state.connection:
        return _CONNECTION_HINT
    if not state.local:
        return ""
    port = state.local[1]
    return f"stop whoever uses port {port} (old connections linger for a minute), or use --publish NEW:{port}"


def _emit_bind(
    state: InetSocket, local: tuple[str, int, int], fd: Slot, image: Image, opener: Opener
) -> None:
    packed = pack(state.family, local)
    address = image.data(packed)
    if state.type != socket.SOCK_RAW:
        protocol = socket.IPPROTO_TCP if state.type == socket.SOCK_STREAM else socket.IPPROTO_UDP
        image.port(address + 2, protocol)
    lonely = state.type == socket.SOCK_STREAM and not sockopts.number_of(state.options, SO_REUSEADDR)
    if lonely:
        # Connections of a moment ago, which may have had it, are in TIME_WAIT on this port.
        _set_int(image, fd, SO_REUSEADDR, 1)
    bound = None
    if lonely and _may_have_left_connections(state):
        only6 = bool(sockopts.number_of(state.options, _IPV6_V6ONLY, socket.IPPROTO_IPV6))
        name = timewait.Name(state.family, local[0], only6, address, len(packed))
        bound = timewait.emit_bind(name, fd, image, opener)
    else:
        image.shared.syscall(NR.bind, fd, address, len(packed))
    if state.state == "listening":
        image.shared.syscall(NR.listen, fd, state.backlog)
    if bound is not None:
        timewait.emit_settle(bound, fd, image, opener)
    if lonely:
        _set_int(image, fd, SO_REUSEADDR, 0)


def _may_have_left_connections(state: InetSocket) -> bool:
    """Connections of a socket with SO_REUSEPORT have that, too, and are in nobody's way who has it."""
    return state.protocol == socket.IPPROTO_TCP and not sockopts.number_of(state.options, SO_REUSEPORT)


def _set_int(image: Image, fd: Slot, number: int, value: int) -> None:
    data = image.data(struct.pack("<i", value), align=4)
    image.shared.syscall(NR.setsockopt, fd, SOL_SOCKET, number, data, 4)


def _emit_over(state: InetSocket, fd: Slot, image: Image, opener: Opener) -> None:
    """Connects to a listener of our own on the loopback, which sends what is unread; its end is then
    closed, for a reset without lingering: RST.
    """
    program = image.shared
    packed = pack(socket.AF_INET, (*_LOOPBACK, 0))
    address = image.data(packed)
    length = opener.int32(len(packed))
    listener = opener.open(NR.socket, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
    program.syscall(NR.bind, listener, address, len(packed))
    program.syscall(NR.listen, listener, 1)
    program.syscall(NR.getsockname, listener, address, length)
    target, size = _loopback_for(state, image, address)
    program.syscall(NR.connect, fd, target, size)
    other = opener.open(NR.accept4, listener, 0, 0, os.O_CLOEXEC)
    _emit_unread(state, fd, other, image)
    if state.state == "reset":
        no_linger = image.data(struct.pack("<ii", 1, 0))
        program.syscall(NR.setsockopt, other, SOL_SOCKET, SO_LINGER, no_linger, 8)
    opener.close(other)
    if state.state == "ended":
        program.syscall(NR.shutdown, fd, socket.SHUT_WR)
    opener.close(listener)


def _emit_unread(state: InetSocket, fd: Slot, other: Slot, image: Image) -> None:
    if len(state.unread) > _PIECE_BYTES:
        room = image.data(struct.pack("<i", 2 * len(state.unread) + (1 << 20)), align=4)
        for end, number in ((fd, _SO_RCVBUFFORCE), (other, _SO_SNDBUFFORCE)):
            image.shared.syscall(NR.setsockopt, end, SOL_SOCKET, number, room, 4)
    for at in range(0, len(state.unread), _PIECE_BYTES):
        piece = state.unread[at : at + _PIECE_BYTES]
        data, size = image.data(piece), len(piece)
        image.shared.syscall(NR.sendto, other, data, size, socket.MSG_DONTWAIT, 0, 0, expect=exactly(size))


def _loopback_for(state: InetSocket, image: Image, address: Data) -> tuple[Data, int]:
    """The listener's address in the socket's own family: ::ffff:127.0.0.1 for an IPv6 one."""
    if state.family == socket.AF_INET:
        return address, 16
    packed = pack(socket.AF_INET6, ("::ffff:127.0.0.1", 0, 0))
    mapped = image.data(packed)
    port = image.shared.load(address + 2, 2)
    image.shared.store(mapped + 2, port, 2)
    return mapped, len(packed)
