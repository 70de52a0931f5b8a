# SPDX-License-Identifier: Apache-2.0
"""Which fds share an open file description.

kcmp(2) orders descriptions, so that among n fds that look alike each is found by comparing it with log2(n).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable

from restorer.native import kcmp
from restorer.state.descriptors import KCMP_FILE, Descriptor

_EQUAL, _LESS = 0, 1


class Descriptions:
    """Descriptions found so far, each by its first fd and its index."""

    def __init__(self) -> None:
        self._ordered: dict[Hashable, list[tuple[Descriptor, int]]] = defaultdict(list)

    def find(self, descriptor: Descriptor) -> int | None:
        """The index of the description of this fd, None for a new one."""
        return self._search(descriptor)[1]

    def add(self, descriptor: Descriptor, index: int) -> None:
        """Remembers a description; no fd of it was added before."""
        place = self._search(descriptor)[0]
        self._ordered[_key(descriptor)].insert(place, (descriptor, index))

    def _search(self, descriptor: Descriptor) -> tuple[int, int | None]:
        """Where the description belongs in the order, and its index if it is there."""
        ordered = self._ordered[_key(descriptor)]
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            other, index = ordered[middle]
            order = kcmp(descriptor.pid, other.pid, KCMP_FILE, descriptor.number, other.number)
            if order == _EQUAL:
                return middle, index
            low, high = (low, middle) if order == _LESS else (middle + 1, high)
        return low, None


def _key(descriptor: Descriptor) -> Hashable:
    """Equal for fds of one description, whatever kcmp says of others."""
    return descriptor.link, descriptor.stat.st_ino, descriptor.flags & ~os.O_CLOEXEC
