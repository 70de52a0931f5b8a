# SPDX-License-Identifier: Apache-2.0
"""The heap of a C program that uses it the moment it is restored, beside CRIU lazy.

Pages at random, and how long it takes until all of a large one is there. What heap.c says of itself is
compared: it finds `go` as soon as it runs, and has verified each page it touched.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.peer import peer_path
from bench.subject import Subject, build, checkpointed
from images import Recipe
from restorer.report import bytes_text, table

__all__ = ["Heap", "Run", "measure", "ours"]

_TOUCHED_MB, _TOUCHES = 256, 20_000
_LOADED_MB = 781
_HEADERS = ("", "MS OF THE TOUCHES", "MS FROM EXEC", "RATIO", "ALL LOADED, MS", "RATIO", "CPU MS")
_TIMEOUT_S = 120.0


class Heap(Recipe):
    """heap.c: waits for `go`, then touches pages and says how long that took."""

    name: ClassVar[str] = "heap"

    def __init__(self, workdir: Path, megabytes: int, touches: int) -> None:
        super().__init__(workdir)
        self.size = (str(megabytes), str(touches))

    def start(self) -> subprocess.Popen[bytes]:
        return self.spawn(build("heap", self.workdir), self.workdir, *self.size)

    def first_request(self, timeout_s: float = 30.0) -> None:
        """Until its memory is filled."""
        self._await("ready", timeout_s)

    def check(self) -> None:
        self.result()

    def result(self) -> dict[str, int]:
        """What a copy that has been told to go found; it aborts when a page is wrong."""
        path = self._await("result", _TIMEOUT_S)
        answer: dict[str, int] = json.loads(path.read_text())
        path.unlink()
        return answer

    def _await(self, name: str, timeout_s: float) -> Path:
        path = self.workdir / name
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"heap: no {name} after {timeout_s:.0f} s")
            time.sleep(0.0005)
        return path


@dataclass(frozen=True)
class Run:
    """One restore; milliseconds."""

    touches_ms: float
    wall_ms: float
    loaded_ms: float
    cpu_ms: float
    faults: int
    median_ns: int
    p99_ns: int


def _run(recipe: Heap, began_ns: int, loaded_ms: Callable[[], float], cpu_ms: Callable[[], float]) -> Run:
    found = recipe.result()
    # By our clock: CRIU restores into a time namespace, whose CLOCK_MONOTONIC goes on from the dump.
    ended_ns = time.monotonic_ns()
    return Run(
        touches_ms=(found["ended_ns"] - found["began_ns"]) / 1e6,
        wall_ms=(ended_ns - began_ns) / 1e6,
        loaded_ms=loaded_ms(),
        cpu_ms=cpu_ms(),
        faults=found["faults"],
        median_ns=found["median_ns"],
        p99_ns=found["p99_ns"],
    )


def _children_ms() -> float:
    """CPU time of all children that have been waited for, and of theirs."""
    times = os.times()
    return (times.children_user + times.children_system) * 1e3


def ours(subject: Subject, *options: str, fills: bool = True) -> Run:
    """A restore of ours; `fills`: all memory comes, and is waited for."""
    assert isinstance(subject.recipe, Heap)
    spent_ms, began_ns = _children_ms(), time.monotonic_ns()
    restored = subject.session.restore(subject.name, *options)

    def loaded_ms() -> float:
        restored.wait()
        return float(restored.wait_loaded()["loaded_ms"]) if fills else 0.0

    def cpu_ms() -> float:
        if not fills:
            return 0.0
        restored.wait_left()
        return _children_ms() - spent_ms

    try:
        return _run(subject.recipe, began_ns, loaded_ms, cpu_ms)
    finally:
        restored.kill()


def _criu_lazy(subject: Subject) -> Run:
    criu = subject.criu
    assert criu is not None and isinstance(subject.recipe, Heap)
    spent_ms = _children_ms()
    criu.prepare_lazy()
    began_ns = time.monotonic_ns()
    restore = criu.start_restore(lazy=True)

    def loaded_ms() -> float:
        criu.wait_loaded()
        return (time.monotonic_ns() - began_ns) / 1e6

    def cpu_ms() -> float:
        restore.wait(_TIMEOUT_S)
        return _children_ms() - spent_ms

    try:
        return _run(subject.recipe, began_ns, loaded_ms, cpu_ms)
    finally:
        criu.stop(restore)


def _row(title: str, runs: list[Run], base: list[Run]) -> tuple[str, ...]:
    def median(of: list[Run], value: str) -> float:
        return float(statistics.median(getattr(run, value) for run in of))

    def ratio(value: str) -> str:
        return f"{median(runs, value) / median(base, value):.2f}"

    return (
        title,
        f"{median(runs, 'touches_ms'):.1f}",
        f"{median(runs, 'wall_ms'):.1f}",
        ratio("wall_ms"),
        f"{median(runs, 'loaded_ms'):.0f}",
        ratio("loaded_ms"),
        f"{median(runs, 'cpu_ms'):.0f}",
    )


def _compare(folder: Path, rounds: int, megabytes: int, touches: int) -> str:
    peer = peer_path()
    rows: dict[str, Callable[[Subject], Run]] = {"restorer": ours}
    if peer:
        rows["CRIU lazy"] = _criu_lazy
    runs: dict[str, list[Run]] = {row: [] for row in rows}
    folder.mkdir()
    with checkpointed(Heap(folder, megabytes, touches), folder, peer) as subject:
        (folder / "go").touch()
        for _ in range(rounds):
            for row, run in rows.items():
                runs[row].append(run(subject))
    cells = [_row(row, of, runs["restorer"]) for row, of in runs.items()]
    title = (
        f"{bytes_text(subject.memory_bytes)} in {bytes_text(subject.image_bytes)}, {touches:,} pages touched"
    )
    return f"{title}\n{table(_HEADERS, cells, right=_HEADERS[1:])}"


def measure(folder: Path, rounds: int) -> str:
    """Two tables. Leaves no process behind."""
    parts = [
        _compare(folder / "touched", rounds, _TOUCHED_MB, _TOUCHES),
        _compare(folder / "loaded", rounds, _LOADED_MB, 1),
    ]
    if not peer_path():
        parts.append("CRIU is not compared: set RESTORER_PEER_CRIU to its executable")
    return "\n\n".join(parts)
