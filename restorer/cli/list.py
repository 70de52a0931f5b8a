# SPDX-License-Identifier: Apache-2.0
"""`restorer list`."""

from __future__ import annotations

from restorer import report
from restorer.cli.options import JsonOption, StoreOption, store_path
from restorer.model import ImageInfo
from restorer.store import open_store

_HEADERS = ("NAME", "PID", "COMMAND", "MEMORY", "SIZE", "CREATED")
_FIELDS = ("name", "id", "pid", "command", "memory_bytes", "stored_bytes", "created")


def command(json: JsonOption = False, store: StoreOption = None) -> None:
    """List the images of the store: their process, its memory, what they take on disk."""
    path = store_path(store)
    with open_store(path) as opened:
        images = opened.images()
    if json:
        rows = [{field: getattr(image, field) for field in _FIELDS} for image in images]
        print(report.document("list", {"store": str(path), "images": rows}))
    else:
        print(report.table(_HEADERS, [_row(image) for image in images], right=("PID", "MEMORY", "SIZE")))


def _row(image: ImageInfo) -> tuple[str, ...]:
    return (
        image.name,
        str(image.pid),
        report.command_text([image.command]),
        report.bytes_text(image.memory_bytes),
        report.bytes_text(image.stored_bytes),
        report.time_text(image.created),
    )
