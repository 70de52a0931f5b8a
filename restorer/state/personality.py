# SPDX-License-Identifier: Apache-2.0
"""Execution domains, personality(2): one for each thread."""

from __future__ import annotations

from dataclasses import dataclass

from restorer.errors import Refused
from restorer.program import Image
from restorer.syscalls import NR
from restorer.tracee import Tracee

_READ_IMPLIES_EXEC = 0x0400000


@dataclass(frozen=True)
class Personality:
    """One value a thread, leader first."""

    values: tuple[int, ...]


def capture(tracee: Tracee) -> Personality:
    """From /proc. Raises Refused for READ_IMPLIES_EXEC, which would make mappings executable."""
    values = tuple(thread.process.personality() for thread in tracee.threads)
    if any(value & _READ_IMPLIES_EXEC for value in values):
        raise Refused("the personality READ_IMPLIES_EXEC cannot be checkpointed")
    return Personality(values)


def emit(state: Personality, image: Image) -> None:
    """Sets each thread's own."""
    for program, value in zip(image.threads, state.values, strict=True):
        program.syscall(NR.personality, value)
