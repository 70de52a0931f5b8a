# SPDX-License-Identifier: Apache-2.0
"""What a terminal of any kind is set to: struct termios2 and its window size; and the ioctls that ask."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import struct
import termios
from dataclasses import replace

from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.syscalls import NR

TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCSTI = 0x540E, 0x540F, 0x5410, 0x5412
TIOCGWINSZ, TIOCSWINSZ, TIOCPKT, TIOCNOTTY, TIOCGETD, TIOCGSID = (
    0x5413,
    0x5414,
    0x5420,
    0x5422,
    0x5424,
    0x5429,
)
TIOCEXCL, TCXONC, TIOCGPTPEER = 0x540C, 0x540A, 0x5441
TCGETS2, TCSETS2, TIOCGPTN, TIOCSPTLCK = 0x802C542A, 0x402C542B, 0x80045430, 0x40045431
TIOCGDEV, TIOCGPKT, TIOCGPTLCK, TIOCGEXCL = 0x80045432, 0x80045438, 0x80045439, 0x80045440
TCOOFF, TCOON = 0, 1
N_TTY = 0

_MAJORS = frozenset({4, 5, 136, 137, 138, 139, 140, 141, 142, 143, 204, 188, 229})
_PTS_MAJOR_FIRST, _PTS_MAJOR_LAST, _PTS_MINORS = 136, 143, 256
_PTMX, _TTY, _CONSOLE = (5, 2), (5, 0), (5, 1)

_TERMIOS2 = struct.Struct("<4IB19s2I")
_WINDOW = struct.Struct("<4H")
_EXTPROC = 0o200000
_DISABLED = 0


@dataclass(frozen=True)
class Settings:
    """struct termios2, and `window`: rows, columns, width and height in pixels."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    cc: bytes
    ispeed: int
    ospeed: int
    window: tuple[int, int, int, int]

    @property
    def is_canonical(self) -> bool:
        """Whether input is edited line by line, by the kernel."""
        return bool(self.lflag & termios.ICANON) and not self.lflag & _EXTPROC

    @property
    def modes(self) -> bytes:
        """struct termios2."""
        return _TERMIOS2.pack(
            self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc, self.ispeed, self.ospeed
        )

    def quiet(self) -> Settings:
        """The same way of keeping input, but nothing is echoed, translated or a signal, and of all keys only
        those that end a line, and one that quotes, mean something.
        """
        cc = bytearray(19)
        lflag = self.lflag & (termios.ICANON | _EXTPROC)
        if self.is_canonical:
            cc[termios.VEOL] = self.cc[termios.VEOL]
            cc[termios.VEOL2] = self.cc[termios.VEOL2] if self.lflag & termios.IEXTEN else _DISABLED
            free = [key for key in (0x16, 0x04, 0x11, 0x13) if key not in cc]
            cc[termios.VLNEXT], cc[termios.VEOF] = free[0], free[1]
            lflag |= termios.IEXTEN
        return replace(self, iflag=0, oflag=0, lflag=lflag, cc=bytes(cc))

    def unedited(self) -> Settings:
        """Every byte can be read at once."""
        return replace(self, iflag=0, oflag=0, lflag=0, cc=bytes(19))


def read(fd: int) -> Settings:
    """Of the terminal; the master of a pair has those of its slave."""
    modes = _TERMIOS2.unpack(fcntl.ioctl(fd, TCGETS2, bytes(_TERMIOS2.size)))
    rows, columns, width, height = _WINDOW.unpack(fcntl.ioctl(fd, TIOCGWINSZ, bytes(_WINDOW.size)))
    iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed = modes
    window = (rows, columns, width, height)
    return Settings(iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed, window)


def set_modes(fd: int, settings: Settings) -> None:
    """All but the window size."""
    fcntl.ioctl(fd, TCSETS2, settings.modes)


def number(fd: int, request: int) -> int:
    """The int that an ioctl gives."""
    value = array.array("i", [0])
    fcntl.ioctl(fd, request, value)
    return value[0]


def emit_modes(settings: Settings, fd: Slot, image: Image) -> None:
    """All but the window size."""
    image.shared.syscall(NR.ioctl, fd, TCSETS2, image.data(settings.modes))


def emit_window(settings: Settings, fd: Slot, image: Image) -> None:
    """The window size."""
    image.shared.syscall(NR.ioctl, fd, TIOCSWINSZ, image.data(_WINDOW.pack(*settings.window)))


def is_terminal(descriptor: Descriptor) -> bool:
    """A tty of any kind but the master side of a pty."""
    device = _device(descriptor)
    return device is not None and device[0] in _MAJORS and device != _PTMX


def is_master(descriptor: Descriptor) -> bool:
    """The master side of a pty."""
    return _device(descriptor) == _PTMX


def is_tty(descriptor: Descriptor) -> bool:
    """/dev/tty: whatever the controlling terminal was when it was opened."""
    return _device(descriptor) == _TTY


def is_console(descriptor: Descriptor) -> bool:
    """/dev/console."""
    return _device(descriptor) == _CONSOLE


def slave_index(device: int) -> int | None:
    """N of /dev/pts/N, None for other devices."""
    major = os.major(device)
    if _PTS_MAJOR_FIRST <= major <= _PTS_MAJOR_LAST:
        return (major - _PTS_MAJOR_FIRST) * _PTS_MINORS + os.minor(device)
    return None


def _device(descriptor: Descriptor) -> tuple[int, int] | None:
    if not stat.S_ISCHR(descriptor.stat.st_mode) or descriptor.flags & os.O_PATH:
        return None
    return os.major(descriptor.stat.st_rdev), os.minor(descriptor.stat.st_rdev)
