# SPDX-License-Identifier: Apache-2.0
"""`restorer checkpoint`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from restorer import report
from restorer.checkpoint import Request, Result, checkpoint
from restorer.cli.options import JsonOption, NameArgument, StoreOption, store_path


class Tcp(StrEnum):
    """What becomes of established TCP connections."""

    REFUSE = "refuse"
    CLOSE = "close"
    ESTABLISHED = "established"


def command(
    pid: Annotated[int, typer.Argument(metavar="PID", min=1, help="The process, as ps shows it here.")],
    name: NameArgument,
    leave_running: Annotated[
        bool, typer.Option("--leave-running", "-R", help="Let it run on; else it is killed once stored.")
    ] = False,
    tcp: Annotated[
        Tcp, typer.Option(help="Established TCP connections: refuse, store them closed, or as they are.")
    ] = Tcp.REFUSE,
    ext_unix: Annotated[
        bool, typer.Option("--ext-unix", help="Connect unix sockets anew whose other end is not in the tree.")
    ] = False,
    skip_in_flight: Annotated[
        bool, typer.Option("--skip-in-flight", help="Lose what waits to be accepted or read.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an image so named.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Store process PID as image NAME. On any error it runs on as it was, and the store is unchanged."""
    bar = report.ProgressBar(f"checkpoint {name}")
    try:
        request = Request(
            pid, name, store_path(store), leave_running, replace, tcp.value, ext_unix, skip_in_flight
        )
        result = checkpoint(request, bar.update)
    finally:
        bar.clear()
    print(report.document("checkpoint", asdict(result)) if json else _sentence(result))


def _sentence(result: Result) -> str:
    threads = report.count_text(result.threads, "thread")
    below = result.processes - 1
    whom = f"process {result.pid}" + (f" and {below} below it" if below else "")
    memory, stored, new = map(report.bytes_text, (result.memory_bytes, result.stored_bytes, result.new_bytes))
    return (
        f"{result.name}: {whom}, {threads}, {memory} of memory in {stored}, {new} of them new; "
        f"frozen for {result.frozen_ms:.0f} ms"
    )
