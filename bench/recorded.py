# SPDX-License-Identifier: Apache-2.0
"""A first restore beside later ones, whose working set was recorded: faults and time to the first reply."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.subject import Subject, drop_cached, started, timed_ms
from restorer import telemetry
from restorer.report import bytes_text, table

__all__ = ["measure"]

_RECIPES = ("http_cache", "http_numpy")
_HEADERS = ("RESTORE", "MS WARM", "FAULTS", "MS COLD IMAGE", "FAULTS COLD", "RESUME MS", "RESUME MS COLD")


def _once(subject: Subject) -> tuple[float, int, float]:
    """Milliseconds and faults to the first reply, milliseconds to resume."""
    restored = subject.session.restore(subject.name)
    reply_ms = timed_ms(lambda: restored.first_reply(subject.recipe))
    restored.wait()
    # Read a moment later than the reply, so counted too high if anything; gone when all is loaded already.
    event = restored.event("loaded")
    faults = event["counters"]["faults"] if event else telemetry.find(str(restored.pid)).counters["faults"]
    restored.wait_loaded()
    restored.kill()
    return reply_ms, faults, restored.resume_ms


def _record(subject: Subject) -> dict[str, int]:
    """The working set of one restore, packed."""
    restored = subject.session.restore(subject.name, "--record")
    restored.first_reply(subject.recipe)
    restored.wait()
    restored.wait_loaded()
    restored.kill()
    return subject.session.run("optimize", subject.name)


def _row(subject: Subject, title: str, rounds: int) -> tuple[str, ...]:
    warm, cold = [], []
    for _ in range(rounds):
        warm.append(_once(subject))
        drop_cached(subject.session.store)
        cold.append(_once(subject))
    ms, faults, resume_ms = (statistics.median(column) for column in zip(*warm, strict=True))
    cold_ms, cold_faults, cold_resume_ms = (statistics.median(column) for column in zip(*cold, strict=True))
    values = (f"{ms:.1f}", f"{faults:.0f}", f"{cold_ms:.1f}", f"{cold_faults:.0f}")
    return (title, *values, f"{resume_ms:.1f}", f"{cold_resume_ms:.1f}")


def measure(folder: Path, rounds: int) -> str:
    """A table for each recipe. Leaves no process behind."""
    parts = []
    for name in _RECIPES:
        with started(name, folder / f"recorded-{name}") as subject:
            first = _row(subject, "as checkpointed", rounds)
            packed = _record(subject)
            rows = [first, _row(subject, "recorded", rounds)]
            sizes = f"{bytes_text(packed['memory_bytes'])} in {bytes_text(packed['hot_bytes'])}"
            title = f"{subject.name}, {bytes_text(subject.memory_bytes)}; working set {sizes}"
            parts.append(f"{title}\n{table(_HEADERS, rows, right=_HEADERS[1:])}")
    return "\n\n".join(parts)
