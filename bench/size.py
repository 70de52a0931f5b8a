# SPDX-License-Identifier: Apache-2.0
"""The image on disk beside the memory it holds, and what a second checkpoint of the same process adds."""

from __future__ import annotations

from pathlib import Path

import images
from images.session import Session, anonymous_bytes, disk_bytes
from restorer.report import bytes_text, table

__all__ = ["measure"]

_RECIPES = ("http_cache", "http_numpy")


def measure(folder: Path, _rounds: int) -> str:
    """A row for each recipe; the process is checkpointed twice with -R. Leaves no process behind."""
    headers = ("RECIPE", "MEMORY", "IMAGE", "SHARE", "SECOND ADDS", "OF THE FIRST", "FROZEN MS", "SECOND")
    rows = [_row(name, folder / f"size-{name}") for name in _RECIPES]
    return table(headers, rows, right=headers[1:])


def _row(name: str, folder: Path) -> tuple[str, ...]:
    folder.mkdir()
    with images.load(name, folder) as recipe, Session(folder) as session:
        recipe.start()
        recipe.wait_ready()
        memory = anonymous_bytes(recipe.pid)
        first = session.checkpoint(recipe.pid, "first", "-R")
        size = disk_bytes(session.store)
        recipe.first_request()
        second = session.checkpoint(recipe.pid, "second", "-R")
        added = disk_bytes(session.store) - size
    return (
        name,
        bytes_text(memory),
        bytes_text(size),
        f"{size / memory:.1%}",
        bytes_text(added),
        f"{added / size:.1%}",
        f"{first['frozen_ms']:.0f}",
        f"{second['frozen_ms']:.0f}",
    )
