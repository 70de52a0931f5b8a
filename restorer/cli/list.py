# SPDX-License-Identifier: Apache-2.0
"""`restorer list`."""

from __future__ import annotations

import sys

import typer

from restorer import report
from restorer.cli.options import JsonOption, StoreOption, store_path
from restorer.model import ImageInfo
from restorer.store import open_store

_HEADERS = ("NAME", "PID", "COMMAND", "MEMORY", "SIZE", "CREATED")
_COMMAND, _COMMAND_MIN, _COMMAND_MAX = 2, 10, 60
_FIELDS = ("name", "id", "pid", "command", "memory_bytes", "stored_bytes", "created")


def command(json: JsonOption = False, store: StoreOption = None) -> None:
    """List the images of the store: their process, its memory, what they take on disk."""
    path = store_path(store)
    with open_store(path) as opened:
        images, unreadable = opened.images()
    if json:
        rows = [{field: getattr(image, field) for field in _FIELDS} for image in images]
        lost = [{"name": name, "cause": error.cause} for name, error in unreadable.items()]
        print(report.document("list", {"store": str(path), "images": rows, "unreadable": lost}))
    else:
        print(table(images, report.line_width()))
    for error in unreadable.values():
        print(f"restorer: {error}", file=sys.stderr)
    if unreadable:
        raise typer.Exit(1)


def table(images: list[ImageInfo], width: int) -> str:
    """COMMAND gets what the line has left for it."""
    rows = [_row(image) for image in images]
    rest = sum(max(map(len, column)) + 2 for column in zip(_HEADERS, *rows, strict=True)) - 2
    longest = max(len(row[_COMMAND]) for row in (_HEADERS, *rows))
    room = max(_COMMAND_MIN, longest - max(rest - width, 0))
    cut = [
        (*row[:_COMMAND], report.command_text([row[_COMMAND]], room), *row[_COMMAND + 1 :]) for row in rows
    ]
    return report.table(_HEADERS, cut, right=("PID", "MEMORY", "SIZE"))


def _row(image: ImageInfo) -> tuple[str, ...]:
    return (
        image.name,
        str(image.pid),
        report.command_text([image.command], _COMMAND_MAX),
        report.bytes_text(image.memory_bytes),
        report.bytes_text(image.stored_bytes),
        report.time_text(image.created),
    )
