# SPDX-License-Identifier: Apache-2.0
"""Interval timers: the time left goes on at resume; the time the image lay in the store does not count."""

from __future__ import annotations

import struct

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee

_NAMES = ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
_ITIMERVAL = struct.Struct("<qqqq")
_MICRO = 1_000_000


@dataclass(frozen=True)
class Itimer:
    """Microseconds; `value_us` 0 for a timer that is off."""

    which: int
    interval_us: int
    value_us: int


@dataclass(frozen=True)
class Itimers:
    """The timers that are on."""

    timers: tuple[Itimer, ...]


def capture(tracee: Tracee) -> Itimers:
    """Asks with getitimer(2)."""
    timers = []
    for which in range(len(_NAMES)):
        tracee.syscall(NR.getitimer, which, tracee.scratch)
        timer = _decode(which, tracee.read(tracee.scratch, _ITIMERVAL.size))
        if timer.value_us:
            timers.append(timer)
    return Itimers(tuple(timers))


def _decode(which: int, data: bytes) -> Itimer:
    interval_s, interval_us, value_s, value_us = _ITIMERVAL.unpack(data)
    interval, value = interval_s * _MICRO + interval_us, value_s * _MICRO + value_us
    # A periodic timer whose signal is pending shows no value: dequeue_signal would start the next period.
    return Itimer(which, interval, value or interval)


def emit_late(state: Itimers, image: Image) -> None:
    """Starts them; last, since they run on. A signal of theirs waits until its thread runs."""
    for timer in state.timers:
        parts = (*divmod(timer.interval_us, _MICRO), *divmod(timer.value_us, _MICRO))
        with image.about(_NAMES[timer.which]):
            image.main.syscall(NR.setitimer, timer.which, image.data(_ITIMERVAL.pack(*parts)), 0)
