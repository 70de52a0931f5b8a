# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: listening, bound, unconnected, datagram ones connected to a name, pairs within the process.

Names are bound by the restored process itself, from its own working directory, so that relative names and
SO_PEERCRED come out right.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from dataclasses import dataclass, replace

from restorer.program import Image, Slot, exactly, ok_or
from restorer.state import sockdiag, sockopts
from restorer.state.descriptors import Descriptor
from restorer.state.opening import AT_FDCWD, Opener
from restorer.state.sockdiag import UnixInfo
from restorer.state.sockopts import SO_PEEK_OFF, SOL_SOCKET, Option
from restorer.syscalls import NR

_AT_SYMLINK_NOFOLLOW = 0x100
_CREDENTIALS_SPACE = socket.CMSG_SPACE(12)
_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class SocketFile:
    """The inode a bound name made."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class UnixSocket:
    """`state` is unbound, bound, listening, connected (to `remote`) or pair (with `peer`, an inode; 0: gone).

    `local` and `remote` are sun_path as the kernel keeps it: empty for none, abstract names begin with NUL.
    `queue` is what the program has not read yet, one item a message.
    """

    inode: int
    type: int
    state: str
    local: bytes
    remote: bytes
    peer: int
    backlog: int
    lost_connections: int
    file: SocketFile | None
    queue: tuple[bytes, ...]
    shutdown: int
    options: tuple[Option, ...]
    peek_offset: int
    flags: int
    kind: str = "unix"


def capture(descriptor: Descriptor, sock: socket.socket, own: frozenset[int]) -> UnixSocket:
    """Describes a socket, `sock` being a duplicate; `own` are the inodes of the target's sockets.

    Raises Refused for connections that leave the process, and for messages that carry fds.
    """
    info = sockdiag.unix_socket(descriptor.stat.st_ino)
    local = _name(sock.getsockname())
    state, remote = _state(descriptor, sock, info, own)
    if sockopts.has_filter(sock.fileno()):
        raise descriptor.refused("unix socket with a BPF filter cannot be checkpointed")
    result = UnixSocket(
        inode=descriptor.stat.st_ino,
        type=int(sock.type),
        state=state if state != "unbound" or not local else "bound",
        local=local,
        remote=remote,
        peer=info.peer or 0,
        backlog=info.wqueue if state == "listening" else 0,
        lost_connections=info.rqueue if state == "listening" else 0,
        file=_socket_file(descriptor, local, info) if local[:1] not in (b"", b"\0") else None,
        queue=(),
        shutdown=info.shutdown,
        options=sockopts.capture(sock, 0),
        peek_offset=sockopts.peek_offset(sock),
        flags=descriptor.kept_flags,
    )
    if state == "listening":
        return result
    queue = _peek(descriptor, sock, info)
    if queue and state != "pair":
        raise descriptor.refused(
            "unix socket with unread messages from outside", "try again when it has read them"
        )
    return replace(result, queue=queue)


def _name(address: object) -> bytes:
    if isinstance(address, bytes):
        return address
    return os.fsencode(address) if isinstance(address, str) else b""


def _state(
    descriptor: Descriptor, sock: socket.socket, info: UnixInfo, own: frozenset[int]
) -> tuple[str, bytes]:
    if sock.getsockopt(SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "listening", b""
    if info.peer is None:
        return "unbound", b""
    remote = _peer_name(sock)
    if sock.type == socket.SOCK_DGRAM and remote:
        return "connected", remote
    if info.peer and info.peer not in own:
        name = os.fsdecode(remote).replace("\0", "@") or "another process"
        raise descriptor.refused(f"unix socket connected to {name} cannot be checkpointed", "close it first")
    if remote or _name(sock.getsockname()):
        raise descriptor.refused(
            "unix connection by name within the process cannot be checkpointed", "close it first"
        )
    return "pair", b""


def _peer_name(sock: socket.socket) -> bytes:
    try:
        return _name(sock.getpeername())
    except OSError:
        return b""


def _socket_file(descriptor: Descriptor, local: bytes, info: UnixInfo) -> SocketFile:
    base = f"/proc/{descriptor.pid}/{'root' if local.startswith(b'/') else 'cwd'}"
    shown = os.fsdecode(local)
    try:
        status = os.lstat(os.path.join(base, shown.lstrip("/")))
    except OSError:
        raise descriptor.refused(
            f"socket file {shown} has been deleted", "only named sockets can be bound"
        ) from None
    if not stat.S_ISSOCK(status.st_mode) or status.st_ino & 0xFFFFFFFF != info.vfs_inode:
        raise descriptor.refused(f"{shown} is not the file of this socket any more", "bind it anew")
    return SocketFile(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _peek(descriptor: Descriptor, sock: socket.socket, info: UnixInfo) -> tuple[bytes, ...]:
    """Reads the receive queue and leaves it: SO_PEEK_OFF walks through it (socket(7))."""
    before = sock.getsockopt(SOL_SOCKET, SO_PEEK_OFF)
    sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, 0)
    try:
        messages = _messages(descriptor, sock)
    finally:
        sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, before)
    if sock.type != socket.SOCK_DGRAM and sum(map(len, messages)) != info.rqueue:
        raise descriptor.refused("unread bytes of a unix socket could not be read without taking them out")
    return messages


def _messages(descriptor: Descriptor, sock: socket.socket) -> tuple[bytes, ...]:
    space = _CREDENTIALS_SPACE if sock.getsockopt(SOL_SOCKET, socket.SO_PASSCRED) else 0
    messages = []
    while True:
        try:
            data, _, flags, _ = sock.recvmsg(_MESSAGE_BYTES, space, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET):
                break
            raise
        if flags & socket.MSG_CTRUNC:
            raise descriptor.refused(
                "unix socket with fds in flight (SCM_RIGHTS)", "try again when it has read them"
            )
        if not data:
            break
        messages.append(data)
    return tuple(messages) if sock.type != socket.SOCK_STREAM else (b"".join(messages),) if messages else ()


def describe(state: UnixSocket) -> str:
    """A few words for messages."""
    name = os.fsdecode(state.local or state.remote).replace("\0", "@")
    return f"unix socket {name}, {state.state}" if name else f"unix socket, {state.state}"


def emit(state: UnixSocket, image: Image, opener: Opener, about: str) -> Slot:
    """An unconnected socket, in the launcher; its names follow in `emit_names`."""
    with image.about(f"{about}: {describe(state)}"):
        fd = opener.open(NR.socket, socket.AF_UNIX, state.type | socket.SOCK_CLOEXEC, 0)
        _finish(state, fd, image, about)
    return fd


def emit_pair(
    states: tuple[UnixSocket, UnixSocket | None], image: Image, opener: Opener, about: str
) -> list[Slot]:
    """Two connected sockets, with what was under way in both directions; None for a side that was closed."""
    one, other = states
    with image.about(f"{about}: unix socket pair"):
        slots = opener.open_pair(NR.socketpair, socket.AF_UNIX, one.type | socket.SOCK_CLOEXEC, 0)
        for state, fd in zip(states, slots, strict=True):
            if state:
                sockopts.emit(state.options, fd, image, about)
        for state, sender in zip(states, reversed(slots), strict=True):
            for message in state.queue if state else ():
                _send(sender, message, image)
        for state, fd in zip(states, slots, strict=True):
            if state and state.shutdown and other:
                image.shared.syscall(NR.shutdown, fd, state.shutdown - 1)
            if state:
                _finish(state, fd, image, about, options=False)
        if other is None:
            opener.close(slots[1])
    return list(slots)


def _send(sender: Slot, message: bytes, image: Image) -> None:
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    data, size = image.data(message), len(message)
    image.shared.syscall(NR.sendto, sender, data, size, flags, 0, 0, expect=exactly(size))


def _finish(state: UnixSocket, fd: Slot, image: Image, about: str, options: bool = True) -> None:
    if options:
        sockopts.emit(state.options, fd, image, about)
    if state.peek_offset >= 0:
        offset = image.data(struct.pack("<i", state.peek_offset), align=4)
        image.shared.syscall(NR.setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, offset, 4)
    image.shared.syscall(NR.fcntl, fd, fcntl.F_SETFL, state.flags)


def _pack(name: bytes) -> bytes:
    """struct sockaddr_un up to the length that counts."""
    ending = b"" if name.startswith(b"\0") else b"\0"
    return struct.pack("=H", socket.AF_UNIX) + name + ending


def emit_names(state: UnixSocket, number: int, image: Image) -> None:
    """Binds and listens in the restored process, where the socket is `number`; after cwd and root."""
    if not state.local:
        return
    shown = os.fsdecode(state.local).replace("\0", "@")
    hint = f"stop whoever listens on {shown}, and take away what is there"
    with image.about(f"fd {number}: {describe(state)}", hint):
        if state.file:
            _take_away(state.local, state.file, image)
        address = image.data(_pack(state.local))
        image.main.syscall(NR.bind, number, address, len(_pack(state.local)))
        if state.file:
            path = image.string(state.local)
            owner = (state.file.uid, state.file.gid, _AT_SYMLINK_NOFOLLOW)
            image.main.syscall(NR.fchownat, AT_FDCWD, path, *owner)
            image.main.syscall(NR.fchmodat, AT_FDCWD, path, state.file.mode)
        emit_listen(state, number, image)


def _take_away(name: bytes, file: SocketFile, image: Image) -> None:
    """Removes the file the former process left, but nothing that is no socket, nor one that somebody serves.

    A socket is put there if nothing is, so that each of the steps has one right answer: opening a socket file
    says ENXIO, and connecting to one that nobody serves ECONNREFUSED.
    """
    program, path = image.main, image.string(name)
    address = image.data(_pack(name))
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    program.syscall(NR.mknodat, AT_FDCWD, path, stat.S_IFSOCK | file.mode, 0, expect=ok_or(errno.EEXIST))
    program.syscall(NR.openat, AT_FDCWD, path, flags, expect=exactly(-errno.ENXIO))
    probe = program.call(NR.socket, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
    program.syscall(NR.connect, probe, address, len(_pack(name)), expect=exactly(-errno.ECONNREFUSED))
    program.syscall(NR.close, probe)
    program.syscall(NR.unlinkat, AT_FDCWD, path, 0)


def emit_listen(state: UnixSocket, number: int, image: Image) -> None:
    """Listens; a second time it only refreshes SO_PEERCRED (unix_listen), once credentials are back."""
    if state.state == "listening":
        image.main.syscall(NR.listen, number, state.backlog)


def emit_connect(state: UnixSocket, number: int, image: Image) -> None:
    """Connects a datagram socket to its peer's name; after all names are bound."""
    if state.remote:
        with image.about(f"fd {number}: {describe(state)}", "start whoever serves it first"):
            address = image.data(_pack(state.remote))
            image.main.syscall(NR.connect, number, address, len(_pack(state.remote)))
