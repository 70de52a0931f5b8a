# SPDX-License-Identifier: Apache-2.0
"""A recipe brought up once and checkpointed by everybody who is compared, then restored again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import images
from bench.peer import Criu
from images.session import Session, anonymous_bytes, disk_bytes

__all__ = ["Subject", "drop_cached", "started", "timed_ms"]


@dataclass
class Subject:
    """A program that has been checkpointed under `name` and has ended."""

    name: str
    recipe: images.Recipe
    session: Session
    criu: Criu | None
    memory_bytes: int
    image_bytes: int
    cold_start_ms: float
    checkpoint: dict[str, Any]


def timed_ms(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return (time.monotonic() - began) * 1e3


def drop_cached(folder: Path) -> None:
    """Take the files of `folder` out of the page cache, so that the next read meets the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


@contextmanager
def started(
    name: str, folder: Path, peer: Path | None = None, megabytes: int | None = None
) -> Iterator[Subject]:
    """Start recipe `name`, wait for it, checkpoint it with the peer, then with restorer: it ends."""
    folder.mkdir()
    if megabytes is not None:
        os.environ["RESTORER_CACHE_MB"] = str(megabytes)
    try:
        recipe = images.load(name, folder)
    finally:
        os.environ.pop("RESTORER_CACHE_MB", None)
    with recipe, Session(folder) as session:
        cold_ms = timed_ms(recipe.start) + timed_ms(recipe.wait_ready)
        memory = anonymous_bytes(recipe.pid)
        criu = Criu(peer, folder / "criu") if peer else None
        if criu:
            criu.dump(recipe.pid)
        result = session.checkpoint(recipe.pid, name)
        recipe.stop()  # reaped: its PID is free for the restores
        yield Subject(name, recipe, session, criu, memory, disk_bytes(session.store), cold_ms, result)
