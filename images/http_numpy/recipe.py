# SPDX-License-Identifier: Apache-2.0
"""CPython's threaded HTTP server over a numpy array, RESTORER_ARRAY_MB megabytes large (500)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import ClassVar

from images import AnswerError, HttpRecipe, free_port
from images.http_numpy import series


class HttpNumpy(HttpRecipe):
    name: ClassVar[str] = "http_numpy"
    probe: ClassVar[str] = "/slice/1000000/1000100"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.megabytes = int(os.environ.get("RESTORER_ARRAY_MB", "500"))
        self.readings = self.megabytes * series.READINGS_PER_MB

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        return self.spawn_module("images.http_numpy.service", str(self.port), str(self.megabytes))

    def compare_probe(self, answer: bytes) -> None:
        self._compare("slice", 1_000_000, 1_000_100, answer)

    def check(self) -> None:
        for step in range(40):
            start = step * (self.readings - 1000) // 40
            self._compare("slice", start, start + 60, self.get(f"/slice/{start}/{start + 60}"))
            self._compare("dot", start, start + 900, self.get(f"/dot/{start}/{start + 900}"))
        total, expected = json.loads(self.get("/sum")), self.total()
        if total != expected:
            raise AnswerError(f"/sum is {total}, not {expected}")

    def total(self) -> int:
        """The sum of all readings; with numpy, there are too many for plain integers."""
        import numpy as np

        period, factor, offset, shift = series.constants()
        total = 0
        for start in range(0, self.readings, 1 << 20):
            index = np.arange(start, min(start + (1 << 20), self.readings), dtype=np.uint64)
            minute = index % np.uint64(period)
            noise = (index * np.uint64(factor) + np.uint64(offset)) >> np.uint64(shift)
            total += int((np.uint64(4) * np.minimum(minute, np.uint64(period) - minute) + noise).sum())
        return total

    def _compare(self, kind: str, start: int, end: int, answer: bytes) -> None:
        readings = [series.reading(index) for index in range(start, end)]
        expected: object = readings if kind == "slice" else sum(value * value for value in readings)
        if json.loads(answer) != expected:
            raise AnswerError(f"/{kind}/{start}/{end} is {answer[:200]!r}")


RECIPE = HttpNumpy
