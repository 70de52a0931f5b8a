# SPDX-License-Identifier: Apache-2.0
"""How a thread is scheduled: policy, priority, nice, CPUs, I/O priority, timer slack."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from restorer.errors import Refused
from restorer.program import Image, ok_or
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread

# struct sched_attr, include/uapi/linux/sched/types.h
_ATTR = struct.Struct("<IIQiIQQQII")
_FLAG_UTIL_CLAMP = 0x60
_UTIL_MAX = 1024
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_PR_SCHED_CORE, _SCHED_CORE_GET = 62, 0
_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
_CPU_MASK_BYTES = 128
_DEADLINE = 6


@dataclass(frozen=True)
class Scheduling:
    """sched_attr of one thread; times in ns. `cpus` is None for a thread that may run on all of them."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    util_min: int
    util_max: int
    cpus: tuple[int, ...] | None
    io_priority: int
    timer_slack_ns: int


def capture(thread: Thread) -> Scheduling:
    """Asks the kernel about the thread; the timer slack is asked by the thread itself."""
    _, policy, flags, nice, priority, runtime, deadline, period, low, high = _attributes(thread.tid)
    cpus = os.sched_getaffinity(thread.tid)
    if core_cookie(thread.tid):
        raise Refused(f"thread {thread.tid} has a core scheduling cookie (PR_SCHED_CORE)")
    return Scheduling(
        policy=policy,
        flags=flags,
        nice=nice,
        priority=priority,
        runtime_ns=runtime,
        deadline_ns=deadline,
        period_ns=period,
        util_min=low,
        util_max=high,
        cpus=None if cpus >= _online() else tuple(sorted(cpus)),
        io_priority=_syscall(NR.ioprio_get, _WHO_PROCESS, thread.tid),
        timer_slack_ns=thread.syscall(NR.prctl, _PR_GET_TIMERSLACK),
    )


def _attributes(tid: int) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(_ATTR.size)
    _syscall(NR.sched_getattr, tid, buffer, _ATTR.size, 0)
    return _ATTR.unpack(buffer.raw)


def _syscall(number: int, *args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(number, *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def core_cookie(tid: int) -> int:
    """Of core scheduling: 0 for none, and on kernels without it."""
    cookie = ctypes.c_uint64(0)
    try:
        _syscall(NR.prctl, _PR_SCHED_CORE, _SCHED_CORE_GET, tid, 0, ctypes.byref(cookie))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV):
            return 0
        raise
    return cookie.value


def _online() -> set[int]:
    with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
        return set(parse_cpus(file.read()))


def parse_cpus(text: str) -> list[int]:
    """The numbers of a list such as "0-3,8"."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def cpu_mask(cpus: tuple[int, ...] | None) -> bytes:
    """A cpu_set_t; for None all bits, of which the kernel takes those it has."""
    if cpus is None:
        return b"\xff" * _CPU_MASK_BYTES
    mask = sum(1 << cpu for cpu in cpus)
    return mask.to_bytes(_CPU_MASK_BYTES, "little")


def emit(state: Scheduling, image: Image, index: int) -> None:
    """Sets all of it. A machine without any of the CPUs leaves the thread where it may run."""
    program = image.threads[index]
    with image.about(
        f"scheduling of thread {index}", "real-time policies and a lower nice need CAP_SYS_NICE"
    ):
        program.syscall(NR.prctl, _PR_SET_TIMERSLACK, state.timer_slack_ns)
        if state.policy != _DEADLINE:
            mask = image.data(cpu_mask(state.cpus))
            program.syscall(NR.sched_setaffinity, 0, _CPU_MASK_BYTES, mask, expect=ok_or(errno.EINVAL))
        program.syscall(NR.sched_setattr, 0, image.data(pack(state)), 0)
        program.syscall(NR.ioprio_set, _WHO_PROCESS, 0, _settable(state.io_priority))


def pack(state: Scheduling) -> bytes:
    """struct sched_attr; clamps only where the thread has some, since most kernels refuse the flag."""
    clamped = (state.util_min, state.util_max) not in ((0, 0), (0, _UTIL_MAX))
    return _ATTR.pack(
        _ATTR.size,
        state.policy,
        state.flags | (_FLAG_UTIL_CLAMP if clamped else 0),
        state.nice,
        state.priority,
        state.runtime_ns,
        state.deadline_ns,
        state.period_ns,
        state.util_min,
        state.util_max,
    )


def _settable(io_priority: int) -> int:
    """The kernel tells a level for the class "none", and refuses to be told one."""
    return io_priority if io_priority >> _IOPRIO_CLASS_SHIFT else 0
