# SPDX-License-Identifier: Apache-2.0
"""resume_ms of a service with 200 MB beside one with 1 GB: lazy means that the size does not matter."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.subject import Subject, started
from restorer.report import bytes_text, table

__all__ = ["measure"]

_SMALL_MB, _LARGE_MB = 200, 1000


def _resume_ms(subject: Subject) -> float:
    restored = subject.session.restore(subject.name, "--fill", "none")
    restored.first_reply(subject.recipe)
    restored.wait()
    restored.kill()
    return restored.resume_ms


def measure(folder: Path, rounds: int) -> str:
    """A table of both, and their ratio. Leaves no process behind."""
    with (
        started("http_cache", folder / "resume-small", megabytes=_SMALL_MB) as small,
        started("http_cache", folder / "resume-large", megabytes=_LARGE_MB) as large,
    ):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            times[0].append(_resume_ms(small))
            times[1].append(_resume_ms(large))
    medians = [statistics.median(column) for column in times]
    rows = [
        (bytes_text(one.memory_bytes), f"{median:.1f}", f"{max(column):.1f}", f"{median / medians[0]:.2f}")
        for one, median, column in zip((small, large), medians, times, strict=True)
    ]
    headers = ("ANONYMOUS MEMORY", "RESUME MS", "WORST", "RATIO")
    return table(headers, rows, right=headers)
