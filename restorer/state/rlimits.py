# SPDX-License-Identifier: Apache-2.0
"""Resource limits. What RLIMIT_CPU has counted starts anew: CPU time belongs to the task that used it."""

from __future__ import annotations

import struct

from restorer.procfs import INFINITY, LIMITS
from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee


@dataclass(frozen=True)
class Rlimit:
    """One pair; 2**64 - 1 is unlimited."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True)
class Rlimits:
    """All pairs, by RLIMIT_* number."""

    limits: tuple[Rlimit, ...]


def capture(tracee: Tracee) -> Rlimits:
    """From /proc/PID/limits: prlimit(2) on another user's process would need CAP_SYS_RESOURCE."""
    pairs = tracee.process.limits()
    return Rlimits(tuple(Rlimit(number, soft, hard) for number, (soft, hard) in enumerate(pairs)))


def emit(state: Rlimits, image: Image) -> None:
    """Sets all, after fds, mappings and threads exist, which they would limit."""
    for limit in state.limits:
        name = LIMITS[limit.resource]
        hard = "unlimited" if limit.hard == INFINITY else str(limit.hard)
        hint = f"restore with a hard limit of at least {hard}, or with CAP_SYS_RESOURCE"
        with image.about(f"resource limit '{name}'", hint):
            pair = image.data(struct.pack("<QQ", limit.soft, limit.hard))
            image.main.syscall(NR.prlimit64, 0, limit.resource, pair, 0)
