# SPDX-License-Identifier: Apache-2.0
"""Where in a process's address space the region may lie: deep inside the largest holes.

The program goes on allocating while the region is there: the heap grows up, stacks and the mmap area grow
down. Half a hole away from its ends, nothing of that gets there before all is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from restorer import wire

_ALIGN_BYTES = 1 << 21
_HOLE_MIN_BYTES = 1 << 28
_MARGIN_BYTES = 1 << 30
_MARGIN_SHARE = 8
# Above vm.mmap_min_addr and what 32-bit constants in code may mean.
_LOWEST = 1 << 28


def candidate_bases(used: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(start, bytes) of up to BASES places for the region, largest first, in an address space where the
    `used` (start, end) are taken; each keeps a margin of up to 1 GiB to what follows it."""
    places = [_place(start, end) for start, end in _holes(used) if end - start >= _HOLE_MIN_BYTES]
    return tuple(sorted(places, key=lambda place: -place[1])[: wire.BASES])


def windows(
    used: Iterable[tuple[int, int]], sizes: Iterable[int], align_bytes: int = wire.CHUNK_BYTES
) -> list[int]:
    """Addresses, aligned to chunks or more, for mappings of these sizes that are gone before the program
    resumes. Fewer than sizes where there is no room. At the low end of the largest holes.
    """
    free = sorted(_holes(used), key=lambda hole: hole[0] - hole[1])[: wire.BASES]
    found: list[tuple[int, int]] = []
    for size in sizes:
        for number, (start, end) in enumerate(free):
            at = (start + 2 * align_bytes - 1) // align_bytes * align_bytes
            if size <= end - at - _MARGIN_BYTES:
                found.append((at, size))
                free[number] = at + size, end
                break
        else:
            break
    return [at for at, _ in found]


def deep_windows(used: Iterable[tuple[int, int]], sizes: Iterable[int]) -> list[int]:
    """The same for mappings that stay until all memory is loaded: a quarter of a hole above its lower end,
    where nothing gets to meanwhile, and below the places of the region.
    """
    free = [
        (start + (end - start) // 4, start + (end - start) // 2)
        for start, end in _holes(used)
        if end - start >= _HOLE_MIN_BYTES
    ]
    free.sort(key=lambda room: room[0] - room[1])
    found: list[int] = []
    for size in sizes:
        for number, (start, end) in enumerate(free):
            at = (start + _ALIGN_BYTES - 1) // _ALIGN_BYTES * _ALIGN_BYTES
            if size <= end - at:
                found.append(at)
                free[number] = at + size + wire.PAGE_BYTES, end
                break
        else:
            break
    return found


def _holes(used: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    at = _LOWEST
    for start, end in sorted(used):
        if start > at:
            yield at, min(start, wire.TASK_SIZE)
        at = max(at, end)
    if at < wire.TASK_SIZE:
        yield at, wire.TASK_SIZE


def _place(start: int, end: int) -> tuple[int, int]:
    length = end - start
    middle = (start + length // 2 + _ALIGN_BYTES - 1) // _ALIGN_BYTES * _ALIGN_BYTES
    margin = min(_MARGIN_BYTES, length // _MARGIN_SHARE)
    return middle, (end - margin - middle) // wire.PAGE_BYTES * wire.PAGE_BYTES
