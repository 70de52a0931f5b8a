# SPDX-License-Identifier: Apache-2.0
"""What waits in a unix socket: bytes and messages, with the open files and credentials they carry.

Read by MSG_PEEK, which installs duplicates of the files in the reader (unix(7), SCM_RIGHTS), and SO_PEEK_OFF,
which walks through the queue (socket(7)). Sent again at a restore, by a socket that the receiver takes it
from.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from restorer.program import Arg, Image, Program, Slot, exactly
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.state.sockdiag import UnixInfo
from restorer.state.sockopts import SO_PEEK_OFF, SOL_SOCKET
from restorer.syscalls import NR

_SCM_PIDFD = 4
_MESSAGE_BYTES = 1 << 20
_RIGHTS_MAX = 253  # SCM_MAX_FD
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * _RIGHTS_MAX) + socket.CMSG_SPACE(12) + 512
_CREDENTIALS = struct.Struct("=iII")
_OVER = (errno.EAGAIN, errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET)
# Copies of what is in flight: out of the way of 0, 1 and 2, which mean something else.
_COPIES_FROM = 64
# struct msghdr, struct iovec, struct cmsghdr on x86-64
_MSGHDR = struct.Struct("<QIIQQQQii")
_IOVEC = struct.Struct("<QQ")
_CMSGHDR = struct.Struct("<Qii")
_NOWHERE = 1  # below vm.mmap_min_addr
_MSG_NAME, _MSG_IOV, _MSG_CONTROL = 0, 16, 32


@dataclass(frozen=True)
class Message:
    """One message, or of a stream the bytes up to where something changes.

    `rights` are open files, by index of their description; while a checkpoint reads, fds of its own. `sender`
    is a name as the kernel keeps it. `credentials` are the PID as the program knows it, user and group; None
    where the receiver does not ask for them.
    """

    data: bytes
    rights: tuple[int, ...] = ()
    credentials: tuple[int, int, int] | None = None
    sender: bytes = b""


def name_of(address: object) -> bytes:
    """What Python makes of a sun_path, as the kernel has it."""
    if isinstance(address, bytes):
        return address
    return os.fsencode(address) if isinstance(address, str) else b""


def read(descriptor: Descriptor, sock: socket.socket, info: UnixInfo) -> tuple[Message, ...]:
    """The receive queue, left as it is. The caller closes the fds in `rights`. Raises Refused for what cannot
    be read so.
    """
    if has_error(sock) and sock.type != socket.SOCK_STREAM:
        if sock.type == socket.SOCK_SEQPACKET and not info.rqueue:
            return ()
        raise descriptor.refused("an error of a unix socket waits to be told", "try again when it has been")
    before = sock.getsockopt(SOL_SOCKET, SO_PEEK_OFF)
    messages: list[Message] = []
    try:
        for message in _walk(descriptor, sock, info):
            messages.append(message)
    except BaseException:
        close(messages)
        raise
    finally:
        sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, before)
    return tuple(_joined(messages) if sock.type == socket.SOCK_STREAM else messages)


def close(messages: Sequence[Message]) -> None:
    """Closes the copies of open files."""
    for fd in (fd for message in messages for fd in message.rights):
        os.close(fd)


def has_error(sock: socket.socket) -> bool:
    """Whether an error waits to be told, which a look at SO_ERROR would take away, and one at an empty queue,
    too (unix_stream_read_generic).
    """
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _walk(descriptor: Descriptor, sock: socket.socket, info: UnixInfo) -> Iterator[Message]:
    at, room = 0, info.rqueue if has_error(sock) else 1 << 62
    while at < room:
        sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, at)
        message = _peek(descriptor, sock, min(_MESSAGE_BYTES, room - at))
        if message is None or (not message.data and not _may_be_empty(sock, info.shutdown)):
            return
        start = _start_of_rights(descriptor, sock, at, message)
        at += len(message.data)
        if start:
            yield replace(message, data=message.data[:start], rights=())
        yield replace(message, data=message.data[start:])


def _may_be_empty(sock: socket.socket, shutdown: int) -> bool:
    """Whether nothing is a message; else it is the end. Of a SOCK_SEQPACKET that has ended it looks the
    same.
    """
    return sock.type == socket.SOCK_DGRAM or (sock.type == socket.SOCK_SEQPACKET and not shutdown & 1)


def _start_of_rights(descriptor: Descriptor, sock: socket.socket, at: int, message: Message) -> int:
    """A stream gives bytes without and bytes with files in one go, up to the last of those: how many are
    without.

    The kernel copies one buffer of its queue after the other, and stops at one whose last byte has no place
    to go to: with the bytes of those before (unix_stream_read_generic). A shorter read would not tell, since
    a peek goes on to the files behind it.
    """
    if sock.type != socket.SOCK_STREAM or not message.rights:
        return 0
    sock.setsockopt(SOL_SOCKET, SO_PEEK_OFF, at)
    room = ctypes.create_string_buffer(len(message.data))
    pieces = _IOVEC.pack(ctypes.addressof(room), len(message.data) - 1) + _IOVEC.pack(_NOWHERE, 1)
    vector = ctypes.create_string_buffer(pieces, len(pieces))
    header = _MSGHDR.pack(0, 0, 0, ctypes.addressof(vector), 2, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.recvmsg.restype = ctypes.c_ssize_t
    length = int(libc.recvmsg(sock.fileno(), header, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    if length >= 0:
        return length
    if ctypes.get_errno() != errno.EFAULT:
        raise descriptor.refused("where in a stream open files come cannot be told", "try again later")
    return 0


def _peek(descriptor: Descriptor, sock: socket.socket, size_bytes: int) -> Message | None:
    how = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        data, ancillary, flags, address = sock.recvmsg(size_bytes, _ANCILLARY_BYTES, how)
    except OSError as error:
        if error.errno in _OVER:
            return None
        raise
    rights: list[int] = []
    credentials = None
    for level, kind, value in ancillary:
        if level != SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            rights += map(_lifted, struct.unpack(f"={len(value) // 4}i", value[: len(value) // 4 * 4]))
        elif kind == socket.SCM_CREDENTIALS:
            credentials = _CREDENTIALS.unpack(value)
        elif kind == _SCM_PIDFD:
            os.close(struct.unpack("=i", value)[0])
    message = Message(data, tuple(rights), credentials, name_of(address))
    if flags & socket.MSG_CTRUNC or (flags & socket.MSG_TRUNC and len(data) == _MESSAGE_BYTES):
        close((message,))
        raise descriptor.refused("what is in flight to a unix socket could not be read", "try again later")
    return message


def _lifted(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _COPIES_FROM)
    finally:
        os.close(fd)


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """Of a stream: what a reader cannot tell apart is one."""
    last: Message | None = None
    for message in messages:
        if last is None:
            last = message
        elif not message.rights and not last.rights and message.credentials == last.credentials:
            last = replace(last, data=last.data + message.data)
        else:
            yield last
            last = message
    if last is not None:
        yield last


def needs_processes(queue: Sequence[Message]) -> bool:
    """Whether it can be sent only once the tree is there: open files of its own, PIDs that exist."""
    return any(message.rights or message.credentials for message in queue)


def emit_send(
    sender: Slot,
    message: Message,
    image: Image,
    program: Program,
    files: Callable[[int], Slot],
    target: bytes = b"",
) -> None:
    """Sends it, with a file for each description in `rights`; `target` is a socket address, b"" for the
    peer.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    data, size = image.data(message.data), len(message.data)
    address = image.data(target) if target else 0
    control, fds_at = _control(message)
    if not control:
        program.syscall(NR.sendto, sender, data, size, flags, address, len(target), expect=exactly(size))
        return
    iov, place = image.data(_IOVEC.pack(0, size)), image.data(control)
    header = image.data(_MSGHDR.pack(0, len(target), 0, 0, 1, 0, len(control), 0, 0))
    pointers: list[tuple[Arg, Arg]] = [(iov, data), (header + _MSG_IOV, iov), (header + _MSG_CONTROL, place)]
    if target:
        pointers.append((header + _MSG_NAME, address))
    for where, what in pointers:
        program.store(where, what)
    for index, description in enumerate(message.rights):
        program.store(place + fds_at + 4 * index, files(description), 4)
    program.syscall(NR.sendmsg, sender, header, flags, expect=exactly(size))


def _control(message: Message) -> tuple[bytes, int]:
    """The control messages, and where the fds go."""
    control = b""
    if message.credentials:
        head = _CMSGHDR.pack(socket.CMSG_LEN(_CREDENTIALS.size), SOL_SOCKET, socket.SCM_CREDENTIALS)
        packed = head + _CREDENTIALS.pack(*message.credentials)
        control += packed.ljust(socket.CMSG_SPACE(_CREDENTIALS.size), b"\0")
    fds_at = len(control) + _CMSGHDR.size
    if message.rights:
        room = 4 * len(message.rights)
        head = _CMSGHDR.pack(socket.CMSG_LEN(room), SOL_SOCKET, socket.SCM_RIGHTS)
        control += head + bytes(socket.CMSG_SPACE(room) - len(head))
    return control, fds_at
