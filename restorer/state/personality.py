# SPDX-License-Identifier: Apache-2.0
"""Execution domains, personality(2): one for each thread."""

from __future__ import annotations

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee


@dataclass(frozen=True)
class Personality:
    """One value a thread, leader first."""

    values: tuple[int, ...]


def capture(tracee: Tracee) -> Personality:
    """From /proc."""
    return Personality(tuple(thread.process.personality() for thread in tracee.threads))


def emit(state: Personality, image: Image) -> None:
    """Sets each thread's own, after the last mmap and mprotect, which READ_IMPLIES_EXEC changes."""
    for program, value in zip(image.threads, state.values, strict=True):
        program.syscall(NR.personality, value)
