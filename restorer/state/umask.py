# SPDX-License-Identifier: Apache-2.0
"""The file mode creation mask."""

from __future__ import annotations

from restorer.procfs import Process
from restorer.program import Program
from restorer.record import dataclass
from restorer.syscalls import NR


@dataclass(frozen=True)
class Umask:
    """umask(2)."""

    mask: int


def capture(process: Process) -> Umask:
    """From /proc/PID/status, of a process or one of its threads."""
    return Umask(process.status.umask)


def emit(state: Umask, program: Program) -> None:
    """Sets it, for all threads that share it."""
    program.syscall(NR.umask, state.mask)
