# SPDX-License-Identifier: Apache-2.0
"""CLOCK_MONOTONIC and CLOCK_BOOTTIME, as the program reads them.

By default they are the machine's: to the program a restore looks like a very long pause. `restore --time
continue` makes a time namespace in which they go on from the checkpoint. It does so by itself where they
would go back: after the machine was booted again, and for a program that was in a time namespace already.
"""

from __future__ import annotations

import os
import time

from restorer.errors import ProcessError
from restorer.procfs import Process
from restorer.record import dataclass

_NANO = 1_000_000_000
_NAMES = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}


@dataclass(frozen=True)
class Clocks:
    """Nanoseconds at the checkpoint, in the tree's time namespace; `own`: that is not the machine's."""

    monotonic_ns: int
    boottime_ns: int
    own: bool


NO_CLOCKS = Clocks(0, 0, False)


def capture(process: Process) -> Clocks:
    """Now; as soon as the tree is held."""
    offsets = _offsets_ns(process)
    monotonic, boottime = (offsets.get(clock, 0) + time.clock_gettime_ns(clock) for clock in _NAMES.values())
    return Clocks(monotonic, boottime, any(offsets.values()))


def now_ns(process: Process, clock: int) -> int:
    """What the process would read."""
    return _offsets_ns(process).get(clock, 0) + time.clock_gettime_ns(clock)


def _offsets_ns(process: Process) -> dict[int, int]:
    """What the process's clocks are ahead of this command's, by clock (time_namespaces(7)); empty on kernels
    without time namespaces.
    """
    try:
        theirs, ours = (_read(one) for one in (process, Process(os.getpid())))
    except ProcessError:
        return {}
    return {clock: theirs[clock] - ours[clock] for clock in theirs}


def _read(process: Process) -> dict[int, int]:
    rows = (line.split() for line in process.text("timens_offsets").splitlines())
    return {_NAMES[name]: int(seconds) * _NANO + int(nanoseconds) for name, seconds, nanoseconds in rows}
