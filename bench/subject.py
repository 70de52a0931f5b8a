# SPDX-License-Identifier: Apache-2.0
"""A recipe brought up once and checkpointed by everybody who is compared, then restored again and again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import images
from bench.peer import Criu
from images.session import Session, anonymous_bytes, disk_bytes

__all__ = ["Subject", "build", "checkpointed", "drop_cached", "started", "timed_ms"]


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
    with checkpointed(recipe, folder, peer) as subject:
        yield subject


@contextmanager
def checkpointed(recipe: images.Recipe, folder: Path, peer: Path | None = None) -> Iterator[Subject]:
    """The same for a recipe that is there, with a store in `folder`."""
    with recipe, Session(folder) as session:
        cold_ms = timed_ms(recipe.start) + timed_ms(recipe.wait_ready)
        memory = anonymous_bytes(recipe.pid)
        criu = Criu(peer, folder / "criu") if peer else None
        if criu:
            criu.dump(recipe.pid)
        result = session.checkpoint(recipe.pid, recipe.name)
        recipe.stop()  # reaped: its PID is free for the restores
        yield Subject(recipe.name, recipe, session, criu, memory, disk_bytes(session.store), cold_ms, result)


def build(name: str, folder: Path, *libraries: str) -> Path:
    """The C program NAME.c of this package, compiled into `folder`. RuntimeError when it cannot be."""
    source, program = Path(__file__).with_name(f"{name}.c"), folder / f"bench-{name}"
    command = ["cc", "-O2", "-std=gnu11", "-pthread", "-o", str(program), str(source), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source.name} cannot be compiled: {done.stderr.strip()}")
    return program
