# SPDX-License-Identifier: Apache-2.0
"""`restorer gc`."""

from __future__ import annotations

from dataclasses import asdict

from restorer import report
from restorer.cli.options import JsonOption, StoreOption, store_path
from restorer.store import open_store


def command(json: JsonOption = False, store: StoreOption = None) -> None:
    """Delete what no image uses any more; the room is used by the next checkpoints."""
    with open_store(store_path(store)) as opened:
        freed = opened.collect()
    if json:
        print(report.document("gc", asdict(freed)))
    else:
        deleted = f"{report.count_text(freed.images, 'image')} and {report.count_text(freed.chunks, 'chunk')}"
        print(f"deleted {deleted}: {report.bytes_text(freed.freed_bytes)} are free for new ones")
        if freed.unused_bytes:
            print(f"kept {report.bytes_text(freed.unused_bytes)} that lie between chunks in use")
