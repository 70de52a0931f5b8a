# SPDX-License-Identifier: Apache-2.0
"""The readings in the array, one at a time: integers, so that every sum of them is exact in a double."""

from __future__ import annotations

READINGS_PER_MB = 125_000  # 8 bytes each, a megabyte being 10**6 bytes

_MASK = (1 << 64) - 1
_PERIOD = 1440  # a day of minutes: the slow part of a reading
_FACTOR, _OFFSET, _SHIFT = 0x9E3779B97F4A7C15, 0x632BE59BD9B4E019, 56


def reading(index: int) -> int:
    """The reading at `index`: a triangular day between 0 and 2880, and noise between 0 and 255."""
    minute = index % _PERIOD
    noise = ((index * _FACTOR + _OFFSET) & _MASK) >> _SHIFT
    return 4 * min(minute, _PERIOD - minute) + noise


def constants() -> tuple[int, int, int, int]:
    """Period, factor, offset and shift, for who computes many readings at once."""
    return _PERIOD, _FACTOR, _OFFSET, _SHIFT
