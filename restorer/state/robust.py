# SPDX-License-Identifier: Apache-2.0
"""The list of robust futexes that the kernel walks when a thread dies."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from restorer.errors import RestorerError
from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

_HEAD = struct.Struct("<QqQ")
_LIMIT = 2048  # ROBUST_LIST_LIMIT, kernel/futex/core.c
_PI_BIT = 1
_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Robust:
    """What set_robust_list(2) was called with; `head` 0: never."""

    head: int
    length: int


def capture(thread: Thread) -> Robust:
    """The list head of one thread."""
    found = thread.robust_list
    return Robust(found.addr, found.size)


def touched(state: Robust, tracee: Tracee) -> Iterator[tuple[int, int]]:
    """(start, end) of all that exit_robust_list reads or writes: the head, every entry, every futex word."""
    if not state.head:
        return
    yield state.head, state.head + _HEAD.size
    try:
        entry, offset, pending = _HEAD.unpack(tracee.read(state.head, _HEAD.size))
        yield from _entry(pending, offset)
        for _ in range(_LIMIT):
            entry &= ~_PI_BIT
            if entry == state.head:
                return
            yield from _entry(entry, offset)
            (entry,) = struct.unpack("<Q", tracee.read(entry, 8))
    except (RestorerError, OSError):
        # The list is the program's own memory: the kernel too stops at an entry it cannot read.
        return


def _entry(entry: int, offset: int) -> Iterator[tuple[int, int]]:
    entry &= ~_PI_BIT
    if entry:
        futex = (entry + offset) & _U64
        yield entry, entry + 8
        yield futex, futex + 4


def emit(state: Robust, image: Image, index: int) -> None:
    """set_robust_list."""
    if state.head:
        with image.about(f"robust list of thread {index}"):
            image.threads[index].syscall(NR.set_robust_list, state.head, state.length)
