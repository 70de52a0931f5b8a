# SPDX-License-Identifier: Apache-2.0
"""What starting the command itself costs, by each way in, when it has nothing to do."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from bench.subject import timed_ms
from images.session import RESTORER
from restorer.report import table

__all__ = ["measure"]

_ROUNDS_EACH = 5


def _run(command: list[str]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def measure(_folder: Path, rounds: int) -> str:
    """A row for each way in; medians of five times as many rounds as the other measurements take."""
    launcher = RESTORER.with_name("restorer-launch")
    commands = {
        "restorer-launch --version": [str(launcher), "--version"],
        "restorer restore --version": [str(RESTORER), "restore", "--version"],
        "python -m restorer restore --version": [sys.executable, "-m", "restorer", "restore", "--version"],
        "restorer list --help": [str(RESTORER), "list", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds * _ROUNDS_EACH):
        for name, command in commands.items():
            times[name].append(timed_ms(lambda command=command: _run(command)))  # type: ignore[misc]
    rows = [(name, f"{statistics.median(column):.1f}") for name, column in times.items()]
    return table(("COMMAND", "MS"), rows, right=("MS",))
