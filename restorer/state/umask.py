# SPDX-License-Identifier: Apache-2.0
"""The file mode creation mask."""

from __future__ import annotations

from dataclasses import dataclass

from restorer.program import Image
from restorer.syscalls import NR
from restorer.tracee import Tracee


@dataclass(frozen=True)
class Umask:
    """umask(2)."""

    mask: int


def capture(tracee: Tracee) -> Umask:
    """From /proc/PID/status."""
    return Umask(tracee.process.status.umask)


def emit(state: Umask, image: Image) -> None:
    """Sets it; the threads share it."""
    image.main.syscall(NR.umask, state.mask)
