# SPDX-License-Identifier: Apache-2.0
"""Pages on demand only, touched by one thread at random: a fault beside its floor.

The floor (floor.c) is the round trip of a fault to a handler that only copies a page, decoding one chunk, and
copying its 16 pages into place.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
from pathlib import Path

import lmdb

from bench.heap import Heap, Run, ours
from bench.subject import build, checkpointed
from restorer.report import table
from restorer.store_format import KEY, unpack_hash

__all__ = ["measure"]

_MEGABYTES, _TOUCHES = 256, 4_000
_HEADERS = ("US", "MEDIAN", "OF THE FLOOR", "P99", "OF THE MEDIAN")


def _write_frames(store: Path, path: Path) -> None:
    """The frames of all chunks as they lie in the store, each behind its length."""
    environment = lmdb.open(str(store), max_dbs=16, readonly=True, lock=False)
    with environment.begin() as transaction, path.open("wb") as out:
        chunks, hashes = (environment.open_db(db, transaction, create=False) for db in (b"chunks", b"hashes"))
        frames = sorted(unpack_hash(store, *entry) for entry in transaction.cursor(hashes))
        for (seq, offset), _, length in frames:
            pack = transaction.get(KEY.pack(seq), b"", db=chunks)
            out.write(struct.pack("<I", length) + pack[offset : offset + length])
    environment.close()


def _floor(program: Path, frames: Path) -> dict[str, int]:
    done = subprocess.run([program, frames, str(_TOUCHES)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"floor ended with {done.returncode}")
    parts: dict[str, int] = json.loads(done.stdout)
    return parts


def measure(folder: Path, rounds: int) -> str:
    """A table. Leaves no process behind."""
    runs: list[Run] = []
    floors: list[dict[str, int]] = []
    with checkpointed(Heap(folder, _MEGABYTES, _TOUCHES), folder) as subject:
        (folder / "go").touch()
        program, frames = build("floor", folder, "-llz4", "-lzstd"), folder / "frames"
        _write_frames(subject.session.store, frames)
        for _ in range(rounds):
            floors.append(_floor(program, frames))
            runs.append(ours(subject, "--fill", "none", fills=False))
    parts = {name: statistics.median(floor[name] for floor in floors) / 1e3 for name in floors[0]}
    floor = statistics.median(sum(one.values()) for one in floors) / 1e3
    median = statistics.median(run.median_ns for run in runs) / 1e3
    p99 = statistics.median(run.p99_ns for run in runs) / 1e3
    said = " + ".join(
        f"{value:.1f} {name.removesuffix('_ns').replace('_', ' ')}" for name, value in parts.items()
    )
    cells = [
        (f"floor: {said}", f"{floor:.1f}", "", "", ""),
        (
            f"fault of {runs[-1].faults:,}",
            f"{median:.1f}",
            f"{median / floor:.2f}",
            f"{p99:.1f}",
            f"{p99 / median:.2f}",
        ),
    ]
    return table(_HEADERS, cells, right=_HEADERS[1:])
