# SPDX-License-Identifier: Apache-2.0
"""`make bench-images`: for each service of images/, what its image takes, and restore against cold start.

Medians of RESTORER_BENCH_ROUNDS rounds (5), restore and cold start in turn, the page cache warm: from exec to
the first right answer that a client gets. A cold start does what the program does then: redis reads its dump,
PostgreSQL opens its cluster, memcached is filled by a client, the others compute what they serve.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images import SERVICES, Recipe, load
from images.installed import Installed
from images.session import Session, descendants, disk_bytes
from restorer.report import bytes_text, table

_COLUMNS = (
    "PROGRAM",
    "PROCESSES",
    "ADDRESS SPACE",
    "MEMORY",
    "ON DISK",
    "FROZEN",
    "COLD START",
    "RESTORE",
    "RATIO",
)


@dataclass
class Figures:
    """Of one program; times in seconds."""

    name: str
    processes: int
    address_bytes: int
    memory_bytes: int
    disk_bytes: int = 0
    frozen_ms: float = 0.0
    cold_s: list[float] = field(default_factory=list)
    restore_s: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """For the table."""
        cold_ms, restore_ms = statistics.median(self.cold_s) * 1e3, statistics.median(self.restore_s) * 1e3
        return (
            self.name,
            str(self.processes),
            bytes_text(self.address_bytes),
            bytes_text(self.memory_bytes),
            f"{bytes_text(self.disk_bytes)} ({self.disk_bytes / self.memory_bytes:.0%})",
            f"{self.frozen_ms:.0f} ms",
            f"{cold_ms:.0f} ms",
            f"{restore_ms:.0f} ms",
            f"{cold_ms / restore_ms:.0f}",
        )


def _footprint(recipe: Recipe) -> Figures:
    """Of the program and all below it; memory that processes share counts once."""
    pids = [recipe.pid, *descendants(recipe.pid)]
    address = sum(_kilobytes(f"/proc/{pid}/status", ("VmSize",)) for pid in pids)
    memory = sum(_kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss_Anon", "Pss_Shmem")) for pid in pids)
    return Figures(recipe.name, len(pids), address * 1024, memory * 1024)


def _kilobytes(path: str, names: tuple[str, ...]) -> int:
    lines = Path(path).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)


def _take(recipe: Installed, session: Session) -> Figures:
    with recipe.busy():
        figures = _footprint(recipe)
        result: dict[str, Any] = session.checkpoint(recipe.pid, recipe.name, *recipe.options)
    recipe.stop()
    session.reap(recipe.name)
    figures.disk_bytes, figures.frozen_ms = disk_bytes(session.store), result["frozen_ms"]
    recipe.keep()
    return figures


def _restore(recipe: Installed, session: Session) -> float:
    recipe.put_back()
    began = time.monotonic()
    restored = session.restore(recipe.name)
    restored.first_reply(recipe)
    taken_s = time.monotonic() - began
    restored.wait()
    restored.kill()
    return taken_s


def _cold_start(recipe: Installed, port: int) -> float:
    recipe.put_back()
    began = time.monotonic()
    recipe.start()
    recipe.wait_ready()
    taken_s = time.monotonic() - began
    recipe.stop()
    recipe.port = port
    return taken_s


def measure(name: str, folder: Path, rounds: int) -> Figures:
    """Everything about one program."""
    recipe = load(name, folder)
    assert isinstance(recipe, Installed)
    with recipe, Session(folder) as session:
        recipe.start()
        recipe.wait_ready()
        recipe.save()
        figures = _take(recipe, session)
        port = recipe.port
        for _ in range(rounds):
            figures.restore_s.append(_restore(recipe, session))
            figures.cold_s.append(_cold_start(recipe, port))
    return figures


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("make bench-images: restoring processes with their PIDs needs root")
    rows = []
    for name in sys.argv[1:] or SERVICES:
        with tempfile.TemporaryDirectory(prefix="restorer-images-") as folder:
            os.chmod(folder, 0o755)  # PostgreSQL runs as a user of its own
            try:
                rows.append(
                    measure(name, Path(folder), int(os.environ.get("RESTORER_BENCH_ROUNDS", "5"))).row()
                )
            except (RuntimeError, OSError) as error:
                sys.exit(f"make bench-images: {name}: {error}")
    print(table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
