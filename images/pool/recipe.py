# SPDX-License-Identifier: Apache-2.0
"""A Python service of asyncio and multiprocessing over RESTORER_POOL_MB megabytes of shared memory (64)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import InstalledHttp, KeptAlive
from images.pool.service import PARTS, WORKERS
from images.records import RECORDS_PER_MB, record, spread


class Pool(InstalledHttp):
    name: ClassVar[str] = "pool"
    needs: ClassVar[dict[str, str]] = {"cat": "coreutils"}
    probe: ClassVar[str] = "/record/71"
    processes: ClassVar[int] = 3 + WORKERS  # the resource tracker and `cat` besides

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.records = int(os.environ.get("RESTORER_POOL_MB", "64")) * RECORDS_PER_MB
        self._shared: list[Path] = []

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        return self.spawn_module("images.pool.service", str(self.port), str(self.records))

    def wait_ready(self) -> None:
        super().wait_ready()
        maps = Path(f"/proc/{self.pid}/maps").read_text().split()
        self._shared = sorted({Path(word) for word in maps if word.startswith("/dev/shm/psm_")})

    def kept(self) -> list[Path]:
        """The records: memory that has a name, which the service or its resource tracker takes away."""
        return self._shared

    def compare_probe(self, answer: bytes) -> None:
        _compare("record/71", answer, record(71))

    def check(self) -> None:
        for step in range(50):
            number = spread(step, self.records)
            _compare(f"record/{number}", self.get(f"/record/{number}"), record(number))
            _compare("echo", self.get(f"/echo/{number}"), str(number))
        # Parts that clients asked for who have gone since are done first.
        _compare("sum", self.get("/sum"), self._sums())
        before = int(self.get("/jobs"))
        for _ in range(3):
            _compare("sum", self.get("/sum"), self._sums())
        if int(self.get("/jobs")) != before + 3 * PARTS:
            raise AnswerError(f"pool: {3 * PARTS} jobs after {before} make {self.get('/jobs')!r}")
        self._check_timer()

    def _client(self) -> Callable[[], None]:
        if not hasattr(self, "_expected"):
            self._expected = self._sums()
        server = KeptAlive(self.port)
        return lambda: _compare("sum", server.get("/sum"), self._expected)

    def _sums(self) -> str:
        size = -(-self.records // PARTS)
        hashes = []
        for first in range(0, self.records, size):
            text = "".join(map(record, range(first, min(first + size, self.records))))
            hashes.append(hashlib.sha256(text.encode()).hexdigest())
        return "\n".join(hashes)

    def _check_timer(self) -> None:
        before, deadline = int(self.get("/ticks")), time.monotonic() + 10
        while int(self.get("/ticks")) < before + 2:
            if time.monotonic() > deadline:
                raise AnswerError(f"pool: the timer stands still at {before}")
            time.sleep(0.05)


def _compare(what: str, answer: bytes, expected: str) -> None:
    if answer.decode() != expected:
        raise AnswerError(f"pool: /{what} is {answer[:80]!r}, not {expected[:80]!r}")


RECIPE = Pool
