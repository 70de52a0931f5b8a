# SPDX-License-Identifier: Apache-2.0
"""A service that answers from a numpy array: `python -m images.http_numpy.service PORT MEGABYTES`.

GET /slice/A/B: the readings of [A, B). GET /dot/A/B: these with themselves. GET /sum: of all readings.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from images.http_numpy import series
from images.serving import JsonHandler, serve

Readings = npt.NDArray[np.float64]
BLOCK = 1 << 20


def fill(count: int) -> Readings:
    """All readings, computed block by block so that no second array of this size is ever there."""
    period, factor, offset, shift = series.constants()
    readings = np.empty(count, dtype=np.float64)
    for start in range(0, count, BLOCK):
        index = np.arange(start, min(start + BLOCK, count), dtype=np.uint64)
        minute = index % np.uint64(period)
        noise = (index * np.uint64(factor) + np.uint64(offset)) >> np.uint64(shift)
        readings[start : start + BLOCK] = (
            np.uint64(4) * np.minimum(minute, np.uint64(period) - minute) + noise
        )
    return readings


class Handler(JsonHandler):
    readings: Readings

    def answer(self) -> object:
        kind, *numbers = self.path.strip("/").split("/")
        if kind == "sum" and not numbers:
            return float(self.readings.sum())
        if len(numbers) != 2 or not all(part.isdigit() for part in numbers):
            return None
        part = self.readings[int(numbers[0]) : int(numbers[1])]
        if kind == "slice":
            return part.tolist()
        return float(np.dot(part, part)) if kind == "dot" else None


def main() -> None:
    port, megabytes = int(sys.argv[1]), int(sys.argv[2])
    Handler.readings = fill(megabytes * series.READINGS_PER_MB)
    serve(port, Handler)


if __name__ == "__main__":
    main()
