# SPDX-License-Identifier: Apache-2.0
"""Seccomp: strict mode, and the filters of each thread.

A restore ends in system calls of the restored threads themselves, which filters may forbid, and every filter
meets the installation of the next. So the launcher traces the threads of a process that has any, with
PTRACE_O_SUSPEND_SECCOMP, from before the first filter to the moment in which each has left the region
(native/launcher/suspend.c).

Filters are installed before the credentials are taken down: CAP_SYS_ADMIN allows it without no_new_privs,
which SECCOMP_FILTER_FLAG_TSYNC would give to all threads of the process (seccomp_sync_threads).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from restorer import wire
from restorer.errors import Refused
from restorer.program import CTL, SLOT, Data, Image, Program, exactly
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread

_SET_MODE_STRICT, _SET_MODE_FILTER = 0, 1
_FLAG_TSYNC, _FLAG_LOG, _FLAG_SPEC_ALLOW = 1, 2, 4
_STRICT, _FILTER = 1, 2

# struct sock_filter, linux/filter.h: code, jt, jf, k
_INSN = struct.Struct("<HBBI")
_CLASS, _RETURN = 0x07, 0x06
_RETURN_VALUE, _RETURN_CONSTANT = 0x18, 0x00
_ACTION, _USER_NOTIF = 0xFFFF0000, 0x7FC00000

_HINT = "seccomp filters are restored by root, or with CAP_SYS_ADMIN"


@dataclass(frozen=True)
class Filter:
    """One program of struct sock_filter; `log` is SECCOMP_FILTER_FLAG_LOG."""

    code: bytes
    log: bool


@dataclass(frozen=True)
class Seccomp:
    """Of one thread; the oldest filter first."""

    strict: bool
    filters: tuple[Filter, ...]

    @property
    def used(self) -> bool:
        """Whether the thread has either."""
        return self.strict or bool(self.filters)


def capture(thread: Thread) -> Seccomp:
    """Reads the filters by ptrace. Raises Refused for those that ask another process."""
    mode = thread.status.seccomp
    if mode not in (0, _STRICT, _FILTER):
        raise Refused(f"thread {thread.tid} is in a seccomp mode of an unknown kind ({mode})")
    filters = tuple(Filter(code, bool(flags & _FLAG_LOG)) for code, flags in thread.filters())
    if any(asks_somebody(one.code) for one in filters):
        raise Refused(
            f"thread {thread.tid} has a seccomp filter that asks another process (SECCOMP_RET_USER_NOTIF)",
            "only filters that decide by themselves can be restored",
        )
    return Seccomp(mode == _STRICT, filters)


def asks_somebody(code: bytes) -> bool:
    """Whether a filter may return SECCOMP_RET_USER_NOTIF; one that computes what it returns may."""
    for insn, _, _, value in _INSN.iter_unpack(code):
        if insn & _CLASS == _RETURN and (
            insn & _RETURN_VALUE != _RETURN_CONSTANT or value & _ACTION == _USER_NOTIF
        ):
            return True
    return False


def common(states: Sequence[Seccomp]) -> int:
    """How many of the oldest filters all threads have alike.

    Two threads have one filter in common, or equal ones: only a later SECCOMP_FILTER_FLAG_TSYNC could tell,
    and it fails where they are not in common. So equal ones are taken for one.
    """
    count = 0
    while all(len(one.filters) > count for one in states):
        if any(one.filters[count] != states[0].filters[count] for one in states):
            break
        count += 1
    return count


def emit_suspend(states: Sequence[Seccomp], image: Image) -> None:
    """Once all threads are there: has the launcher suspend seccomp in them."""
    if not any(one.used for one in states):
        return
    with image.about("the channel to the launcher"):
        ask = image.data(wire.MESSAGE.pack(wire.MessageKind.SUSPEND, 0, 0, 0, 0))
        image.main.syscall(NR.write, SLOT.channel, ask, wire.MESSAGE.size)


def emit(states: Sequence[Seccomp], image: Image) -> None:
    """Puts back strict mode and filters of all threads; what a thread's program has next must be credentials.

    What all threads have in common goes by the leader to all of them at once; then each installs its own.
    """
    if not any(one.used for one in states):
        return
    shared, main = common(states), image.main
    installed = image.reserve(4)
    main.wait(CTL.suspended)
    flags = _FLAG_TSYNC if len(states) > 1 else 0
    for number, one in enumerate(states[0].filters[:shared]):
        with image.about(f"seccomp filter {number} of all threads", _HINT):
            _emit_filter(one, flags, image, main)
    main.add(installed)
    for index, (state, program) in enumerate(zip(states, image.threads, strict=True)):
        program.wait(installed)
        _emit_own(state, shared, image, index)


def _emit_own(state: Seccomp, shared: int, image: Image, index: int) -> None:
    program = image.threads[index]
    for number, one in enumerate(state.filters[shared:], shared):
        with image.about(f"seccomp filter {number} of thread {index}", _HINT):
            _emit_filter(one, 0, image, program)
    if state.strict:
        with image.about(f"strict seccomp of thread {index}"):
            program.syscall(NR.seccomp, _SET_MODE_STRICT, 0, 0)


def _emit_filter(state: Filter, flags: int, image: Image, program: Program) -> None:
    # SPEC_ALLOW: what a filter once did to the speculation of its thread, prctls.py has.
    flags |= _FLAG_SPEC_ALLOW | (_FLAG_LOG if state.log else 0)
    program.syscall(
        NR.seccomp, _SET_MODE_FILTER, flags, emit_table(state.code, image, program), expect=exactly(0)
    )


def emit_table(code: bytes, image: Image, program: Program) -> Data:
    """A struct sock_fprog in the image's data."""
    table = image.data(struct.pack("<HxxxxxxQ", len(code) // _INSN.size, 0))
    program.store(table + 8, image.data(code))
    return table
