# SPDX-License-Identifier: Apache-2.0
"""POSIX message queues (mq_overview(7)) that the tree has open, and only the tree.

No call looks at a queue without emptying it. So its messages are received, from a tree that is held, and sent
back at once, in the order in which they came: by priority, then by age. A restore takes the queue that is
still there, and sets it to what it was.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_hex

from restorer.errors import RestorerError
from restorer.program import ANY, Data, Image, Slot, exactly, ok_or
from restorer.record import dataclass
from restorer.state import holders, sysvipc
from restorer.state.descriptors import Descriptor, copied, filesystem_magic
from restorer.state.opening import Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

_MQUEUE_MAGIC = 0x19800202
# What reading one gives is 80 bytes of text (FILENT_SIZE in ipc/mqueue.c).
_FILE_BYTES = 80
_NOTIFIED = re.compile(rb"NOTIFY_PID:([1-9]\d*)")
_RLIMIT_MSGQUEUE, _INFINITE = 12, b"\xff" * 16
_TIMEOUT_S = 1.0
_DELETED = " (deleted)"
# struct mq_attr: flags, maxmsg, msgsize, curmsgs, four reserved
_ATTR = struct.Struct("<8q")
_MAXMSG_AT = 8
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Message:
    """One message."""

    priority: int
    text: bytes


@dataclass(frozen=True)
class Mqueue:
    """A queue, its messages in the order in which they are received; `linked`: it still has its name, else
    `name` is a random one. `messages_max` and `message_bytes` are mq_maxmsg and mq_msgsize.
    """

    name: str
    linked: bool
    mode: int
    owner: tuple[int, int]
    messages_max: int
    message_bytes: int
    messages: tuple[Message, ...]

    def __str__(self) -> str:
        return f"message queue {self.name}" if self.linked else "message queue without a name"

    @property
    def attributes(self) -> bytes:
        """struct mq_attr."""
        return _ATTR.pack(0, self.messages_max, self.message_bytes, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class MqueueEnd:
    """A description of a queue, by its index in the table; `flags` are those of the description."""

    queue: int
    flags: int
    kind: str = "message queue"


def is_one(descriptor: Descriptor) -> bool:
    """Whether it is a message queue; another file of that file system is not."""
    status = descriptor.stat
    if not stat.S_ISREG(status.st_mode) or status.st_size != _FILE_BYTES or descriptor.flags & os.O_PATH:
        return False
    return filesystem_magic(descriptor) == _MQUEUE_MAGIC


class Mqueues:
    """The queues of a tree, `tracees` by pid, that were captured so far."""

    def __init__(self, tracees: Mapping[int, Tracee]) -> None:
        self._tracees = tracees
        self._index: dict[int, int] = {}
        self.captured: list[Mqueue] = []

    def capture(self, descriptor: Descriptor) -> MqueueEnd:
        """Describes it, and its queue if that is a new one. Raises Refused for one that others have open, or
        that somebody waits for (mq_notify(3)).
        """
        inode = descriptor.stat.st_ino
        if inode not in self._index:
            self._refuse_shared(descriptor)
            queue = _capture(descriptor)
            self._index[inode] = len(self.captured)
            self.captured.append(queue)
        with copied(self._tracees[descriptor.pid], descriptor.number) as copy:
            # mq_open(3), unlike open(2), leaves O_CLOEXEC in the flags of the description.
            flags = fcntl.fcntl(copy, fcntl.F_GETFL) & ~os.O_ASYNC
        return MqueueEnd(self._index[inode], flags)

    def _refuse_shared(self, descriptor: Descriptor) -> None:
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in self._tracees:
                for number, link in holders.links(int(entry)):
                    if _name(link) == _name(descriptor.link) and _is_same(descriptor, entry, number):
                        holder = holders.Holder(int(entry), holders.name(int(entry)), number)
                        what = f"message queue {_name(descriptor.link)} shared with {holder}"
                        raise descriptor.refused(what, "close it in one of the two first")


def _name(link: str) -> str:
    return os.path.basename(link.removesuffix(_DELETED))


def _is_same(descriptor: Descriptor, pid: str, number: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), descriptor.stat)
    except OSError:
        return False


def _capture(descriptor: Descriptor) -> Mqueue:
    status, linked = descriptor.stat, descriptor.stat.st_nlink > 0
    try:
        fd = os.open(f"/proc/{descriptor.pid}/fd/{descriptor.number}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise descriptor.refused(
            f"message queue {_name(descriptor.link)} cannot be read ({error.strerror})", "run as root"
        ) from None
    try:
        if waiting := _NOTIFIED.search(os.pread(fd, _FILE_BYTES, 0)):
            raise descriptor.refused(
                f"process {int(waiting[1])} waits for messages in {_name(descriptor.link)} (mq_notify), "
                "and what it would be told cannot be read",
                "take that back first",
            )
        _, messages_max, message_bytes, *_ = _attributes(fd)
        return Mqueue(
            name=_name(descriptor.link) if linked else f"restorer-{token_hex(8)}",
            linked=linked,
            mode=stat.S_IMODE(status.st_mode),
            owner=(status.st_uid, status.st_gid),
            messages_max=messages_max,
            message_bytes=message_bytes,
            messages=_messages(fd, message_bytes, descriptor),
        )
    finally:
        os.close(fd)


def _attributes(fd: int) -> tuple[int, ...]:
    buffer = (ctypes.c_char * _ATTR.size)()
    _check(_libc.mq_getattr(fd, buffer))
    return _ATTR.unpack(buffer.raw)


def _messages(fd: int, message_bytes: int, descriptor: Descriptor) -> tuple[Message, ...]:
    taken: list[Message] = []
    with _no_signals():
        try:
            while _attributes(fd)[3]:
                taken.append(_receive(fd, message_bytes))
        finally:
            for index, message in enumerate(taken):
                try:
                    _send(fd, message)
                except OSError as error:
                    # Somebody who is not of the tree has opened it by name just now, and filled it.
                    left = f"{len(taken) - index} messages of {descriptor.link}"
                    raise RestorerError(f"{left} could not be put back ({error.strerror})") from None
    return tuple(taken)


@contextmanager
def _no_signals() -> Iterator[None]:
    """No signal's handler ends us while a message is ours alone."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _deadline() -> ctypes.Array[ctypes.c_long]:
    now = time.time() + _TIMEOUT_S
    return (ctypes.c_long * 2)(int(now), int(now % 1 * 1e9))


def _receive(fd: int, message_bytes: int) -> Message:
    buffer, priority = (ctypes.c_char * message_bytes)(), ctypes.c_uint()
    length = _check(
        _libc.mq_timedreceive(fd, buffer, ctypes.c_size_t(message_bytes), ctypes.byref(priority), _deadline())
    )
    return Message(priority.value, buffer.raw[:length])


def _send(fd: int, message: Message) -> None:
    text = message.text
    _check(_libc.mq_timedsend(fd, text, ctypes.c_size_t(len(text)), message.priority, _deadline()))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@dataclass
class Opened:
    """A queue in the launcher: its name, and an fd that reads and writes."""

    name: Data
    holder: Slot


def emit(queue: Mqueue, image: Image, opener: Opener) -> Opened:
    """Makes the queue, or takes the one of that name if size and number of messages fit, and fills it.
    `finish` must follow once its descriptions are emitted.
    """
    program, name = image.shared, image.string(queue.name)
    hint = f"see mq_overview(7) for limits and for how to remove a queue {queue.name} of another size"
    with image.about(str(queue), hint), _unlimited(image):
        sysvipc.emit_namespace(image)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        there = program.call(NR.mq_open, name, flags, 0, 0, expect=ok_or(errno.ENOENT))
        with program.unless_eq(there, -errno.ENOENT):
            _emit_empty(queue, there, image)
        attributes = image.data(queue.attributes)
        holder = opener.open(NR.mq_open, name, flags | os.O_CREAT, queue.mode, attributes)
        _emit_undo(name, there, image)
        program.syscall(NR.fchown, holder, *queue.owner)
        program.syscall(NR.fchmod, holder, queue.mode)
        for message in queue.messages:
            text = image.data(message.text)
            size = len(message.text)
            program.syscall(NR.mq_timedsend, holder, text, size, message.priority, 0, expect=exactly(0))
    return Opened(name, holder)


@contextmanager
def _unlimited(image: Image) -> Iterator[None]:
    # The limit counts what a user's queues might hold, and is kept by root too (mqueue_get_inode).
    program, before = image.shared, image.reserve(16)
    program.syscall(NR.prlimit64, 0, _RLIMIT_MSGQUEUE, 0, before)
    program.syscall(NR.prlimit64, 0, _RLIMIT_MSGQUEUE, image.data(_INFINITE), 0, expect=ok_or(errno.EPERM))
    yield
    program.syscall(NR.prlimit64, 0, _RLIMIT_MSGQUEUE, before, 0)


def _emit_empty(queue: Mqueue, fd: Slot, image: Image) -> None:
    """Closes `fd` again."""
    program = image.shared
    found, buffer = image.reserve(_ATTR.size), image.reserve(queue.message_bytes)
    program.syscall(NR.mq_getsetattr, fd, 0, found)
    program.check_mem(found + _MAXMSG_AT, image.data(queue.attributes) + _MAXMSG_AT, 16)
    for _ in range(queue.messages_max):
        program.syscall(NR.mq_timedreceive, fd, buffer, queue.message_bytes, 0, 0, expect=ok_or(errno.EAGAIN))
    program.syscall(NR.close, fd)


def _emit_undo(name: Data, there: Slot, image: Image) -> None:
    """A restore that fails takes away what it has made: `note` points to its name, or nowhere."""
    note = image.data(bytes(8))
    image.shared.store(note, name)
    with image.shared.unless_eq(there, -errno.ENOENT):
        image.shared.store(note, 0)
    image.undo.syscall(NR.mq_unlink, image.undo.load(note), expect=ANY)


def emit_end(end: MqueueEnd, opened: Opened, opener: Opener) -> Slot:
    """Opens it once more."""
    flags = end.flags & (os.O_ACCMODE | os.O_NONBLOCK | os.O_CLOEXEC)
    return opener.open(NR.mq_open, opened.name, flags, 0, 0)


def finish(queue: Mqueue, opened: Opened, image: Image, opener: Opener) -> None:
    """Takes away what only the making needed."""
    opener.close(opened.holder)
    if not queue.linked:
        image.shared.syscall(NR.mq_unlink, opened.name)
