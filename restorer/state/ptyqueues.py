# SPDX-License-Identifier: Apache-2.0
"""What is on its way through a pseudoterminal: keys that its slave has not read, output that its master has
not.

No call looks at a terminal's queue without emptying it. So both are read, from a tree that is held, and put
back at once: output by writing it to the slave, unchanged since OPOST is off, keys by TIOCSTI, which puts
them through the line discipline before it returns (tiocsti in tty_io.c), where a write to the master would
leave that to a kernel thread. Complete lines are read before anything else: ICANON off and on again would
make all that is queued one line (n_tty_set_termios).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from restorer.errors import PrivilegeError
from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state import terminals
from restorer.state.terminals import TCXONC, TIOCPKT, TIOCSTI, Settings
from restorer.syscalls import NR

# The line discipline has room for 4095 (N_TTY_BUF_SIZE); what is beyond it has not been looked at by it yet,
# and could not be told from what has.
INPUT_BYTES_MAX = 3500
# Room for what its line discipline has not got yet (pty_common_install), and in that of the master.
_BUFFER_BYTES, _DISCIPLINE_BYTES = 8192, 4095
_READ_BYTES = 65536
_KEY, _TCFLOW = "key", "tcflow"


@dataclass(frozen=True)
class Queues:
    """`typed`: keys that, typed with `Settings.quiet`, leave the input queue as it was. `output`: what the
    master has not read. `stopped`: what holds output back, a "key" (Ctrl-S) or "tcflow", if anything.
    """

    typed: bytes
    output: bytes
    stopped: str


EMPTY = Queues(b"", b"", "")


def input_bytes(slave: int) -> int:
    """What the slave can read now."""
    queued = array.array("i", [0])
    fcntl.ioctl(slave, termios.FIONREAD, queued)
    return queued[0]


def capture(master: int, slave: int, settings: Settings) -> Queues:
    """`slave` is an fd of our own, O_NONBLOCK; nobody else may read or write meanwhile. Both queues are as
    they were afterwards, also when it fails. Raises PrivilegeError.
    """
    _refuse_powerless(slave)
    taken = _Taken(master, slave, settings)
    with _nonblocking(master), _without_packets(master):
        try:
            taken.take()
        finally:
            taken.put_back()
    return Queues(bytes(taken.typed), bytes(taken.output), taken.stopped)


def _refuse_powerless(fd: int) -> None:
    try:
        # The rights come before the address, which is none (tiocsti in tty_io.c).
        fcntl.ioctl(fd, TIOCSTI, 1)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise PrivilegeError("putting keys back into a terminal (TIOCSTI)", "run as root") from None


@contextmanager
def _nonblocking(fd: int) -> Iterator[None]:
    # The flag is the target's too: pidfd_getfd gives its description.
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


@contextmanager
def _without_packets(master: int) -> Iterator[None]:
    # In packet mode a change of the slave's settings is something that the master can read.
    packets = terminals.number(master, terminals.TIOCGPKT)
    fcntl.ioctl(master, TIOCPKT, array.array("i", [0]))
    try:
        yield
    finally:
        fcntl.ioctl(master, TIOCPKT, array.array("i", [packets]))


class _Taken:
    def __init__(self, master: int, slave: int, settings: Settings) -> None:
        self.master = master
        self.slave = slave
        self.settings = settings
        self.quiet = settings.quiet()
        self.typed = bytearray()
        self.output = bytearray()
        self.stopped = ""

    def take(self) -> None:
        self.output += _drain(self.master)
        # With all read there is room, and only who has stopped it can keep output back.
        held = not _is_writable(self.slave)
        if self.settings.is_canonical:
            while (line := _read(self.slave)) is not None:
                self.typed += _keys_of_line(line, self.quiet)
            terminals.set_modes(self.slave, self.settings.unedited())
            self.typed += _quoted(_drain(self.slave), self.quiet)
        else:
            self.typed += _drain(self.slave)
        # IXON off sets going what a key has stopped, and nothing else does but tcflow(3).
        terminals.set_modes(self.slave, self.quiet)
        if held:
            self.stopped = _KEY if _is_writable(self.slave) else _TCFLOW
        self.output += _drain(self.master)

    def put_back(self) -> None:
        terminals.set_modes(self.slave, self.quiet)
        if self.stopped == _TCFLOW:
            fcntl.ioctl(self.slave, TCXONC, terminals.TCOON)
        first = _told_apart(self.output)
        _type(self.master, self.output[:first])
        _write_all(self.slave, self.output[first:])
        _type(self.slave, self.typed)
        terminals.set_modes(self.slave, self.settings)
        if self.stopped == _TCFLOW:
            fcntl.ioctl(self.slave, TCXONC, terminals.TCOOFF)
        elif self.stopped == _KEY:
            fcntl.ioctl(self.slave, TIOCSTI, self.settings.cc[termios.VSTOP : termios.VSTOP + 1])


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poll.poll(0))


def _read(fd: int) -> bytes | None:
    """What one read(2) gives, None when there is nothing. A read that finds nothing has first waited for what
    was on its way through the kernel (tty_buffer_flush_work in n_tty_read).
    """
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        # The master, when nobody has the slave open.
        if error.errno == errno.EIO:
            return None
        raise


def _drain(fd: int) -> bytes:
    found = bytearray()
    while part := _read(fd):
        found += part
    return bytes(found)


def _told_apart(output: bytes | bytearray) -> int:
    """So much of it does not go the way of what the slave writes, which has no room for all: nobody knows
    when a kernel thread will have passed the first part on.
    """
    return min(max(len(output) - _BUFFER_BYTES, 0), _DISCIPLINE_BYTES)


def _type(fd: int, text: bytes | bytearray) -> None:
    for byte in text:
        fcntl.ioctl(fd, TIOCSTI, bytes([byte]))


def _write_all(fd: int, output: bytearray) -> None:
    view = memoryview(output)
    while view:
        view = view[os.write(fd, view) :]


def _keys_of_line(line: bytes, quiet: Settings) -> bytes:
    """Keys for a line as read(2) gives it: without the key that ended it, if that was VEOF."""
    ends = {0x0A, quiet.cc[termios.VEOL] or 0x0A, quiet.cc[termios.VEOL2] or 0x0A}
    if line and line[-1] in ends:
        return _quoted(line[:-1], quiet) + line[-1:]
    return _quoted(line, quiet) + quiet.cc[termios.VEOF : termios.VEOF + 1]


def _quoted(text: bytes, quiet: Settings) -> bytes:
    """Keys that mean these bytes and nothing else."""
    quote = quiet.cc[termios.VLNEXT : termios.VLNEXT + 1]
    special = {0x0A, *(key for key in quiet.cc if key)}
    return b"".join(quote + bytes([byte]) if byte in special else bytes([byte]) for byte in text)


def emit(queues: Queues, settings: Settings, ends: tuple[Slot, Slot], image: Image) -> None:
    """Fills a new pair, and sets it. `ends` are master and slave, the latter open with O_NONBLOCK."""
    master, slave = ends
    quiet = settings.quiet()
    terminals.emit_modes(quiet, slave, image)
    first, length = _told_apart(queues.output), len(queues.output)
    _emit_typing(master, queues.output[:first], image)
    if length > first:
        rest = image.data(queues.output[first:])
        image.shared.syscall(NR.write, slave, rest, length - first, expect=exactly(length - first))
    _emit_typing(slave, queues.typed, image)
    terminals.emit_modes(settings, slave, image)
    if queues.stopped == _TCFLOW:
        image.shared.syscall(NR.ioctl, slave, TCXONC, terminals.TCOOFF)
    elif queues.stopped == _KEY:
        key = image.data(settings.cc[termios.VSTOP : termios.VSTOP + 1])
        image.shared.syscall(NR.ioctl, slave, TIOCSTI, key)


def _emit_typing(fd: Slot, text: bytes, image: Image) -> None:
    keys = image.data(text)
    for index in range(len(text)):
        image.shared.syscall(NR.ioctl, fd, TIOCSTI, keys + index)
