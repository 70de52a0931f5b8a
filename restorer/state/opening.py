# SPDX-License-Identifier: Apache-2.0
"""How the state modules open things in the launcher, where an fd must end at or above the image's fd_base."""

from __future__ import annotations

import fcntl

from restorer.program import OK, Arg, Data, Expect, Image, Program, Slot
from restorer.syscalls import NR

AT_FDCWD = -100
STAT_BYTES = 144
STAT_MODE = 24
STAT_RDEV = 40
STAT_SIZE = 48
STAT_MTIME = 88

FILE_HINT = "put it back as it was, or use --force-files"


class Opener:
    """Appends ops to `program`, which is `image.shared` unless said otherwise, that leave fds at or above
    `image.fd_base`; made once for an image.
    """

    def __init__(self, image: Image, program: Program | None = None) -> None:
        self.image = image
        self.program = program or image.shared
        self.low = image.slot()
        self.stat = image.reserve(STAT_BYTES)
        self.pair = image.reserve(8)

    def open(self, nr: int, *args: Arg, expect: Expect = OK) -> Slot:
        """Appends a syscall that returns an fd; the slot holds that fd, moved up."""
        self.program.syscall(nr, *args, result=self.low, expect=expect)
        return self.lift(self.low)

    def lift(self, low: Slot) -> Slot:
        """Moves the fd in `low` up, close-on-exec; the slot holds the new number."""
        kept = self.program.call(NR.fcntl, low, fcntl.F_DUPFD_CLOEXEC, self.image.fd_base)
        self.program.syscall(NR.close, low)
        return kept

    def open_pair(self, nr: int, *args: Arg) -> tuple[Slot, Slot]:
        """Appends a syscall whose last argument is an int[2] of new fds (pipe2's goes first: see `pipe`)."""
        self.program.syscall(nr, *args, self.pair)
        return self._lift_pair()

    def pipe(self, flags: int) -> tuple[Slot, Slot]:
        """A pipe: read end, write end."""
        self.program.syscall(NR.pipe2, self.pair, flags)
        return self._lift_pair()

    def _lift_pair(self) -> tuple[Slot, Slot]:
        first, second = self.program.load(self.pair, 4), self.program.load(self.pair + 4, 4)
        return self.lift(first), self.lift(second)

    def close(self, fd: Slot) -> None:
        """Closes an fd that was needed for the opening only."""
        self.program.syscall(NR.close, fd)

    def int32(self, value: int) -> Data:
        """Four bytes in the image, for the kernel to read."""
        return self.image.data((value & 0xFFFFFFFF).to_bytes(4, "little"), align=4)
