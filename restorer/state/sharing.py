# SPDX-License-Identifier: Apache-2.0
"""Which fds share an open file description, and which tasks share what a task has.

kcmp(2) orders such objects, so that among n that may be the same each is found by comparing it with log2(n).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable

from restorer.native import kcmp
from restorer.state.descriptors import KCMP_FILE, Descriptor

KCMP_VM, KCMP_FILES, KCMP_FS = 1, 2, 3
_EQUAL, _LESS = 0, 1


def _search(count: int, compare: Callable[[int], int]) -> tuple[int, bool]:
    """Where among `count` in their order one belongs, and whether it is there. `compare` asks kcmp(2)."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        order = compare(middle)
        if order == _EQUAL:
            return middle, True
        low, high = (low, middle) if order == _LESS else (middle + 1, high)
    return low, False


class Objects:
    """What tasks have of one kind (KCMP_VM, ...), found so far: each by the first task and an index."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._ordered: list[tuple[int, int]] = []

    def find(self, tid: int) -> int | None:
        """The index of what this task has, None for a new one. Raises OSError as kcmp does."""
        place, there = self._place(tid)
        return self._ordered[place][1] if there else None

    def add(self, tid: int, index: int) -> None:
        """Remembers what this task has, which none that was added before has."""
        self._ordered.insert(self._place(tid)[0], (tid, index))

    def _place(self, tid: int) -> tuple[int, bool]:
        ordered = self._ordered
        return _search(len(ordered), lambda at: kcmp(tid, ordered[at][0], self._kind, 0, 0))


class Descriptions:
    """Descriptions found so far, each by its first fd and its index."""

    def __init__(self) -> None:
        self._ordered: dict[Hashable, list[tuple[Descriptor, int]]] = defaultdict(list)

    def find(self, descriptor: Descriptor) -> int | None:
        """The index of the description of this fd, None for a new one."""
        place, there = self._place(descriptor)
        return self._ordered[_key(descriptor)][place][1] if there else None

    def add(self, descriptor: Descriptor, index: int) -> None:
        """Remembers a description; no fd of it was added before."""
        self._ordered[_key(descriptor)].insert(self._place(descriptor)[0], (descriptor, index))

    def _place(self, descriptor: Descriptor) -> tuple[int, bool]:
        ordered = self._ordered[_key(descriptor)]

        def compare(at: int) -> int:
            other = ordered[at][0]
            return kcmp(descriptor.pid, other.pid, KCMP_FILE, descriptor.number, other.number)

        return _search(len(ordered), compare)


def _key(descriptor: Descriptor) -> Hashable:
    """Equal for fds of one description, whatever kcmp says of others."""
    return descriptor.link, descriptor.stat.st_ino, descriptor.flags & ~os.O_CLOEXEC
