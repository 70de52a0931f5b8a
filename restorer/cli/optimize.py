# SPDX-License-Identifier: Apache-2.0
"""`restorer optimize`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from restorer import report
from restorer.cli.options import JsonOption, NameArgument, StoreOption, store_path
from restorer.store import open_store


def command(
    name: NameArgument,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget the working set, and recordings not yet packed.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Pack the memory that restores of NAME with --record needed, for later ones to bring it first."""
    with open_store(store_path(store)) as opened:
        done = opened.optimize(name, reset=reset)
    if json:
        print(report.document("optimize", asdict(done)))
    else:
        size = f"{report.bytes_text(done.memory_bytes)} in {report.bytes_text(done.hot_bytes)}"
        folded = report.count_text(done.recordings, "recording")
        print(f"{name}: {report.count_text(done.chunks, 'chunk')}, {size}, {folded} folded in")
