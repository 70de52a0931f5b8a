# SPDX-License-Identifier: Apache-2.0
"""Signal handlers, one table for the whole process."""

from __future__ import annotations

import signal
import struct

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee

_SIGSET_BYTES = 8
_LAST = 64
# the kernel's struct sigaction of x86-64: handler, flags, restorer, mask
_ACTION = struct.Struct("<QQQQ")
_UNCHANGEABLE = (signal.SIGKILL, signal.SIGSTOP)


@dataclass(frozen=True)
class Sigaction:
    """The disposition of one signal; `handler` 0 is SIG_DFL, 1 SIG_IGN."""

    number: int
    handler: int
    flags: int
    restorer: int
    mask: int


def capture(tracee: Tracee) -> tuple[Sigaction, ...]:
    """All dispositions that differ from the default."""
    found = []
    for number in range(1, _LAST + 1):
        if number in _UNCHANGEABLE:
            continue
        tracee.syscall(NR.rt_sigaction, number, 0, tracee.scratch, _SIGSET_BYTES)
        fields = _ACTION.unpack(tracee.read(tracee.scratch, _ACTION.size))
        if any(fields):
            found.append(Sigaction(number, *fields))
    return tuple(found)


def emit(state: tuple[Sigaction, ...], image: Image) -> None:
    """Sets them; the process begins with all defaults (CLONE_CLEAR_SIGHAND)."""
    for action in state:
        with image.about(f"the handler of signal {action.number}"):
            table = image.data(_ACTION.pack(action.handler, action.flags, action.restorer, action.mask))
            image.main.syscall(NR.rt_sigaction, action.number, table, 0, _SIGSET_BYTES)
