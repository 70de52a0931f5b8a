# SPDX-License-Identifier: Apache-2.0
"""From exec of the restore to the first right reply: ours beside CRIU lazy and eager, and a cold start."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from bench.peer import peer_path
from bench.subject import Subject, drop_cached, started, timed_ms
from restorer.report import bytes_text, table

__all__ = ["measure"]

_RECIPES = ("http_cache", "http_numpy")
_Round = Callable[[Subject], tuple[float, float]]


def _ours(subject: Subject, *options: str) -> tuple[float, float]:
    """To the first reply, and until all was loaded, both from exec."""
    restored = subject.session.restore(subject.name, *options)
    began_ms = timed_ms(lambda: restored.first_reply(subject.recipe))
    restored.wait()
    loaded = restored.wait_loaded()["loaded_ms"]
    restored.kill()
    return began_ms, loaded


def _lazy(subject: Subject) -> tuple[float, float]:
    return _ours(subject)


def _before(subject: Subject) -> tuple[float, float]:
    return _ours(subject, "--fill", "before")


def _criu_lazy(subject: Subject) -> tuple[float, float]:
    assert subject.criu is not None
    subject.criu.prepare_lazy()
    return _criu(subject, lazy=True)


def _criu_eager(subject: Subject) -> tuple[float, float]:
    return _criu(subject, lazy=False)


def _criu(subject: Subject, *, lazy: bool) -> tuple[float, float]:
    criu = subject.criu
    assert criu is not None
    restore = criu.start_restore(lazy=lazy)
    try:
        reply_ms = timed_ms(subject.recipe.first_request)
        loaded_ms = reply_ms + timed_ms(criu.wait_loaded) if lazy else reply_ms
    finally:
        criu.stop(restore)
    return reply_ms, loaded_ms


def _folder(subject: Subject, row: str) -> Path:
    return subject.criu.folder if row.startswith("CRIU") and subject.criu else subject.session.store


def _interleave(subject: Subject, rows: dict[str, _Round], rounds: int) -> dict[str, list[list[float]]]:
    """For each row: replies warm, replies with a cold image, all loaded."""
    times: dict[str, list[list[float]]] = {row: [[], [], []] for row in rows}
    for _ in range(rounds):
        for row, run in rows.items():
            reply, loaded = run(subject)
            times[row][0].append(reply)
            times[row][2].append(loaded)
        for row, run in rows.items():
            drop_cached(_folder(subject, row))
            times[row][1].append(run(subject)[0])
    return times


def measure(folder: Path, rounds: int) -> str:
    """A table for each recipe. Leaves no process behind."""
    peer = peer_path()
    parts = []
    for name in _RECIPES:
        rows: dict[str, _Round] = {"restorer": _lazy, "restorer --fill before": _before}
        if peer:
            rows |= {"CRIU lazy": _criu_lazy, "CRIU eager": _criu_eager}
        with started(name, folder / f"reply-{name}", peer) as subject:
            times = _interleave(subject, rows, rounds)
        parts.append(_format(subject, times))
    if not peer:
        parts.append("CRIU is not compared: set RESTORER_PEER_CRIU to its executable")
    return "\n\n".join(parts)


def _format(subject: Subject, times: dict[str, list[list[float]]]) -> str:
    medians = {row: [statistics.median(column) for column in columns] for row, columns in times.items()}
    ours = medians["restorer"][0]
    cells = [
        (row, *(f"{value:.1f}" for value in values), f"{values[0] / ours:.2f}")
        for row, values in medians.items()
    ]
    cold = subject.cold_start_ms
    cells.append(("cold start", f"{cold:.0f}", "", "", f"{cold / ours:.0f}"))
    headers = ("MS TO THE FIRST REPLY", "WARM", "COLD IMAGE", "ALL LOADED", "RATIO")
    title = f"{subject.name}, {bytes_text(subject.memory_bytes)} of anonymous memory"
    return f"{title}\n{table(headers, cells, right=headers[1:])}"
