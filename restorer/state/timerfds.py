# SPDX-License-Identifier: Apache-2.0
"""timerfds: clock, setting, ticks that nobody has read yet.

A timer that was set to an absolute time still ends at that time of its clock. Any other goes on with the time
left: the time the image lay in the store does not count.
"""

from __future__ import annotations

import os
import re
import struct
import time

from restorer.errors import FeatureError
from restorer.program import Arg, Image, Program, Slot
from restorer.record import dataclass
from restorer.state import clocks, descriptors
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

_ITIMERSPEC = struct.Struct("<qqqq")
_TFD_TIMER_ABSTIME = 1
# Linux takes no settings flags but these two: TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET.
_SETTIME_FLAGS = 3
# _IOW('T', 0, __u64)
_TFD_IOC_SET_TICKS = 0x40085400
_NANO = 1_000_000_000
# CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM: without a device that could wake the machine timerfds of theirs
# can be set, but they cannot be read (alarm_clock_get_timespec).
_ALARMS = {8: time.CLOCK_REALTIME, 9: time.CLOCK_BOOTTIME}
_PAIR = re.compile(r"\((\d+), (\d+)\)")
_ATTEMPTS = 8
_NEAR_NS = 50_000


@dataclass(frozen=True)
class TimerFd:
    """A timerfd. `value_ns` 0 for one that is not armed, else the time left, or with TFD_TIMER_ABSTIME in
    `settime_flags` the time of its clock at which it ends; `flags` are those of the description.
    """

    clock: int
    settime_flags: int
    value_ns: int
    interval_ns: int
    ticks: int
    flags: int
    kind: str = "timerfd"


def capture(tracee: Tracee, descriptor: Descriptor) -> TimerFd:
    """Reads fdinfo. Raises FeatureError on kernels that do not show the timer there."""
    if "clockid" not in descriptor.info:
        raise FeatureError(f"fd {descriptor.number}: this kernel does not show the state of a timerfd")
    left_ns, current = _settled(tracee, descriptor)
    info = current.info
    clock, settime_flags = int(info["clockid"]), int(info["settime flags"], 8) & _SETTIME_FLAGS
    interval_ns = _nanoseconds(info["it_interval"])
    if left_ns and settime_flags & _TFD_TIMER_ABSTIME:
        left_ns = _end_ns(tracee, descriptor, _ALARMS.get(clock, clock))
    ticks = int(info["ticks"])
    return TimerFd(clock, settime_flags, left_ns, interval_ns, ticks, descriptor.kept_flags)


def _end_ns(tracee: Tracee, descriptor: Descriptor, clock: int) -> int:
    """When an absolute timer ends, by its clock, never too early; now, if it has just ended.

    Nothing shows it: it is what is left at a moment, and the moment is known to lie between two looks at the
    clock. All looks are at one time, so the earliest end that any of them gives is the best one.
    """
    earliest = latest = 0
    for attempt in range(_ATTEMPTS):
        before = clocks.now_ns(tracee.process, clock)
        left = _nanoseconds(descriptors.read(tracee.pid, descriptor.number).info["it_value"])
        after = clocks.now_ns(tracee.process, clock)
        if not left:
            return after
        earliest = max(earliest, before + left)
        latest = min(latest, after + left) if attempt else after + left
        if latest - earliest < _NEAR_NS:
            break
    return latest


def _settled(tracee: Tracee, descriptor: Descriptor) -> tuple[int, Descriptor]:
    """The time left, and an fdinfo that was read in the same period.

    After it has ended a periodic timer stands still until it is read; timerfd_gettime(2) lets it go on, and
    counts the ticks in between (timerfd_get_remaining, do_timerfd_gettime in fs/timerfd.c).
    """
    interval_ns = 0
    for _ in range(_ATTEMPTS):
        tracee.syscall(NR.timerfd_gettime, descriptor.number, tracee.scratch)
        descriptor = descriptors.read(tracee.pid, descriptor.number)
        left_ns = _nanoseconds(descriptor.info["it_value"])
        interval_ns = _nanoseconds(descriptor.info["it_interval"])
        if left_ns or not interval_ns or descriptor.info["ticks"] == "0":
            return left_ns, descriptor
    return interval_ns, descriptor


def _nanoseconds(pair: str) -> int:
    found = _PAIR.fullmatch(pair)
    return int(found[1]) * _NANO + int(found[2]) if found else 0


def emit(timer: TimerFd, opener: Opener) -> Slot:
    """Makes it."""
    return opener.open(NR.timerfd_create, timer.clock, (timer.flags & os.O_NONBLOCK) | os.O_CLOEXEC)


def emit_early(timer: TimerFd, number: int, image: Image) -> None:
    """Starts the one that is open as `number` in the restored process, whose clocks may be others than the
    launcher's, if it is of an alarm clock, which later needs a capability (do_timerfd_settime).
    """
    if timer.clock in _ALARMS:
        _start(timer, image.main, number)


def emit_late(timer: TimerFd, number: int, image: Image) -> None:
    """Starts any other, with the ticks it had."""
    if timer.clock not in _ALARMS:
        _start(timer, image.main, number)


def _start(timer: TimerFd, program: Program, fd: Arg) -> None:
    if timer.value_ns or timer.interval_ns:
        setting = _ITIMERSPEC.pack(*divmod(timer.interval_ns, _NANO), *divmod(timer.value_ns, _NANO))
        program.syscall(NR.timerfd_settime, fd, timer.settime_flags, program.image.data(setting), 0)
    if timer.ticks:
        ticks = program.image.data(timer.ticks.to_bytes(8, "little"))
        program.syscall(NR.ioctl, fd, _TFD_IOC_SET_TICKS, ticks)
