# SPDX-License-Identifier: Apache-2.0
"""POSIX timers (timer_create), with their ids: the time left goes on at resume.

The kernel does not tell whether a timer was set to an absolute time, so all go on with the time left. The
overrun count of the last signal delivered (timer_getoverrun) is 0 until the next one.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterable
from dataclasses import replace

from restorer.errors import Refused
from restorer.program import Data, Image, exactly
from restorer.record import dataclass
from restorer.state.pending import Pending
from restorer.syscalls import NR
from restorer.tracee import Tracee

_ITIMERSPEC = struct.Struct("<qqqq")
# struct sigevent: sigev_value, sigev_signo, sigev_notify, the thread, up to 64 bytes
_SIGEVENT = struct.Struct("<Qiii44x")
# siginfo_t: si_signo, si_errno, si_code, padding, si_tid
_SIGINFO_TIMER = struct.Struct("<iii4xi")
_SI_TIMER = -2
_NOTIFY = {"signal": 0, "none": 1, "thread": 2}
_SIGEV_THREAD_ID = 4
_PR_TIMER_CREATE_RESTORE_IDS, _OFF, _ON, _GET = 77, 0, 1, 2
_ID_MAX_BY_COUNTING = 1000
_CLOCK_OWN_THREAD = -2
_NANO = 1_000_000_000
_ATTEMPTS = 8
_TIMER = re.compile(
    r"ID: (?P<id>\d+)\nsignal: (?P<signal>\d+)/(?P<value>[0-9a-f]+)\n"
    r"notify: (?P<notify>\w+)/(?P<target>pid|tid)\.(?P<pid>-?\d+)\nClockID: (?P<clock>-?\d+)\n"
)


@dataclass(frozen=True)
class PosixTimer:
    """One timer; `tid` is the thread that gets the signal, as the program knows it, or 0 for the process.
    `value_ns` 0 for one that is not armed; `waiting`: a signal of it is pending.
    """

    id: int
    clock: int
    notify: int
    signal: int
    value: int
    tid: int
    interval_ns: int
    value_ns: int
    waiting: bool


@dataclass(frozen=True)
class PosixTimers:
    """The timers by id. `restores_ids`: the kernel makes a timer with the id that is asked for."""

    timers: tuple[PosixTimer, ...]
    restores_ids: bool


def capture(tracee: Tracee) -> PosixTimers:
    """Reads /proc/PID/timers and asks with timer_gettime(2). Call it before the pending signals are read.

    Raises Refused for one whose thread has ended, or whose clock or id cannot be had again.
    """
    text = tracee.process.timers()
    timers = [_capture(tracee, found) for found in _TIMER.finditer(text)]
    if len(timers) < sum(line.startswith("ID:") for line in text.split("\n")):
        raise Refused("its POSIX timers are described in a way that is not known")
    timers.sort(key=lambda timer: timer.id)
    restores_ids = bool(timers) and _restores_ids()
    if timers and not restores_ids and timers[-1].id > _ID_MAX_BY_COUNTING:
        raise Refused(
            f"POSIX timer {timers[-1].id} cannot get its id again", "Linux 6.15 makes timers with any id"
        )
    return PosixTimers(tuple(timers), restores_ids)


def _restores_ids() -> bool:
    prctl = ctypes.CDLL(None).prctl
    return bool(prctl(_PR_TIMER_CREATE_RESTORE_IDS, *map(ctypes.c_ulong, (_GET, 0, 0, 0))) >= 0)


def _capture(tracee: Tracee, found: re.Match[str]) -> PosixTimer:
    number, notify, clock = int(found["id"]), _NOTIFY[found["notify"]], int(found["clock"])
    tid = 0
    if found["target"] == "tid":
        notify |= _SIGEV_THREAD_ID
        tid = _own_tid(tracee, int(found["pid"]), number)
    _check_clock(tracee, clock, number)
    interval_ns, value_ns, waiting = _setting(tracee, number)
    return PosixTimer(
        id=number,
        clock=clock,
        notify=notify,
        signal=int(found["signal"]),
        value=int(found["value"], 16),
        tid=tid,
        interval_ns=interval_ns,
        value_ns=value_ns,
        waiting=waiting,
    )


def _own_tid(tracee: Tracee, tid: int, number: int) -> int:
    for thread in tracee.threads:
        if thread.tid == tid:
            return thread.nstid
    raise Refused(f"POSIX timer {number} is for a thread that has ended", "delete it first")


def _check_clock(tracee: Tracee, clock: int, number: int) -> None:
    """A CPU-time clock is a negative number made of a pid, 0 for one's own (clock_getcpuclockid(3))."""
    if clock >= 0:
        return
    pid = ~(clock >> 3)
    if clock == _CLOCK_OWN_THREAD and len(tracee.threads) > 1:
        raise Refused(
            f"POSIX timer {number} counts the CPU time of a thread, and the kernel does not tell of which",
            "use pthread_getcpuclockid instead of CLOCK_THREAD_CPUTIME_ID",
        )
    if pid and pid not in [thread.nstid for thread in tracee.threads]:
        raise Refused(f"POSIX timer {number} counts the CPU time of another process", "delete it first")


def _setting(tracee: Tracee, number: int) -> tuple[int, int, bool]:
    """Interval, time left, and whether a signal waits, all of one moment."""
    before = _is_waiting(tracee, number)
    for _ in range(_ATTEMPTS):
        tracee.syscall(NR.timer_gettime, number, tracee.scratch)
        words = _ITIMERSPEC.unpack(tracee.read(tracee.scratch, _ITIMERSPEC.size))
        after = _is_waiting(tracee, number)
        if before == after:
            break
        before = after
    return words[0] * _NANO + words[1], words[2] * _NANO + words[3], after


def _is_waiting(tracee: Tracee, number: int) -> bool:
    queues = (tracee.pending, *(thread.pending for thread in tracee.threads))
    return any(number in _timers_of(infos) for infos in queues)


def _timers_of(infos: Iterable[bytes]) -> set[int]:
    """Ids of the timers that these signals come from."""
    fields = (_SIGINFO_TIMER.unpack_from(info) for info in infos)
    return {tid for _, _, code, tid in fields if code == _SI_TIMER}


def settle(state: PosixTimers, queues: Iterable[Pending]) -> PosixTimers:
    """The timers as they are once the pending signals have been read: those that ended in between have sent
    one, which must not come twice.
    """
    ended = {number for queue in queues for number in _timers_of(queue.infos)}
    timers = tuple(
        replace(timer, value_ns=timer.value_ns + timer.interval_ns if timer.interval_ns else 0, waiting=True)
        if timer.id in ended and not timer.waiting
        else timer
        for timer in state.timers
    )
    return replace(state, timers=timers)


def emit(state: PosixTimers, image: Image) -> None:
    """Makes the timers; once all threads are there, and while alarm clocks are allowed (CAP_WAKE_ALARM)."""
    if not state.timers:
        return
    found = image.reserve(8)
    with image.about("POSIX timers"):
        if state.restores_ids:
            image.main.syscall(NR.prctl, _PR_TIMER_CREATE_RESTORE_IDS, _ON)
            for timer in state.timers:
                _emit_with_id(timer, found, image)
            image.main.syscall(NR.prctl, _PR_TIMER_CREATE_RESTORE_IDS, _OFF)
        else:
            _emit_by_counting(state, found, image)


def _emit_with_id(timer: PosixTimer, found: Data, image: Image) -> None:
    with image.about(f"POSIX timer {timer.id}"):
        image.main.store(found, timer.id, 4)
        image.main.syscall(NR.timer_create, timer.clock, _sigevent(timer, image), found)
        image.main.check_eq(image.main.load(found, 4, image.spare), timer.id)


def _emit_by_counting(state: PosixTimers, found: Data, image: Image) -> None:
    # A new process gives the ids 0, 1, 2, ... (next_posix_timer_id): those in between are deleted again.
    by_id = {timer.id: timer for timer in state.timers}
    for number in range(state.timers[-1].id + 1):
        timer = by_id.get(number)
        event = 0 if timer is None else _sigevent(timer, image)
        with image.about(f"POSIX timer {number}"):
            image.main.syscall(NR.timer_create, timer.clock if timer else 0, event, found)
            image.main.check_eq(image.main.load(found, 4, image.spare), number)
            if timer is None:
                image.main.syscall(NR.timer_delete, number, expect=exactly(0))


def _sigevent(timer: PosixTimer, image: Image) -> Data:
    return image.data(_SIGEVENT.pack(timer.value, timer.signal, timer.notify, timer.tid))


def emit_late(state: PosixTimers, image: Image) -> None:
    """Starts them; last, since they run on."""
    for timer in state.timers:
        if timer.value_ns or timer.interval_ns:
            setting = _ITIMERSPEC.pack(*divmod(timer.interval_ns, _NANO), *divmod(timer.value_ns, _NANO))
            with image.about(f"POSIX timer {timer.id}"):
                image.main.syscall(NR.timer_settime, timer.id, 0, image.data(setting), 0)
