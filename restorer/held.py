# SPDX-License-Identifier: Apache-2.0
"""Memory that was read and is not in the store yet: hashing and compressing it takes longer than reading it,
and the process need not be frozen for that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from restorer.store import ImageWriter, MapSummary

__all__ = ["Held", "spare_bytes"]

_PART = 4
_MOST_BYTES = 1 << 32
_CHECK_CHUNKS = 64
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
# Of version 2 and of version 1: limit and use.
_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def spare_bytes(cgroup: str) -> int:
    """How much memory may be held for a while without asking: a quarter of what is left, to the machine and
    to who has this text in /proc/PID/cgroup; 4 GiB at most.
    """
    spare = _MOST_BYTES
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            spare = min(spare, int(line.split()[1]) * 1024 // _PART)
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            spare = min(spare, _left_in(_CGROUPS / controllers / path.lstrip("/")) // _PART)
    return max(spare, 0)


def _left_in(group: Path) -> int:
    for limit, use in _LIMITS:
        try:
            most, used = (group / limit).read_text().strip(), (group / use).read_text().strip()
        except OSError:
            continue
        if most != "max":
            return int(most) - int(used)
    return _MOST_BYTES * _PART


class Held:
    """Takes chunks for `writer` as it does, and keeps up to `room` bytes of them until `settle`; beyond that,
    all go to the writer at once. Used by one thread.
    """

    def __init__(self, writer: ImageWriter, room: int) -> None:
        self._writer = writer
        self._room = room
        # None: an address space ends.
        self._kept: list[tuple[int, int, int, bytes] | None] = []
        self._passing = False
        self._maps: list[MapSummary] = []

    def add(self, addr: int, mask: int, flags: int, pages: bytes | bytearray | memoryview) -> None:
        """As ImageWriter.add."""
        self._room -= len(pages)
        if self._room < 0 and not self._passing:
            self._pass_on(lambda: None)
        if self._passing:
            self._writer.add(addr, mask, flags, pages)
        else:
            self._kept.append((addr, mask, flags, bytes(pages)))

    def end_map(self) -> None:
        """What comes next belongs to another address space."""
        if self._passing:
            self._maps.append(self._writer.finish_map())
        else:
            self._kept.append(None)

    def settle(self, check: Callable[[], None]) -> list[MapSummary]:
        """Everything into the writer; `check` is called now and then, and ends it by what it raises. Raises
        StoreFull, StoreDamaged.
        """
        self._pass_on(check)
        return self._maps

    def _pass_on(self, check: Callable[[], None]) -> None:
        self._passing = True
        kept, self._kept = self._kept[::-1], []
        while kept:
            if len(kept) % _CHECK_CHUNKS == 0:
                check()
            chunk = kept.pop()
            if chunk is None:
                self._maps.append(self._writer.finish_map())
            else:
                self._writer.add(*chunk)
