# SPDX-License-Identifier: Apache-2.0
"""`restorer stats`."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Annotated

import typer

from restorer import report, telemetry
from restorer.cli.options import JsonOption, StoreOption

_SHOWN = 10


def command(
    target: Annotated[
        str, typer.Argument(metavar="PID|NAME", help="A restored process, or the image it came from.")
    ],
    json: JsonOption = False,
    _store: StoreOption = None,
) -> None:
    """What the pager of a restore has done so far, and the last faults it answered."""
    found = telemetry.find(target)
    if json:
        print(report.document("stats", asdict(found)))
    else:
        print("\n".join(_lines(found)))


def _lines(found: telemetry.Telemetry) -> list[str]:
    counters = found.counters
    there = sum(counters[name] for name in ("fault_pages", "fill_pages", "eager_pages", "written_pages"))
    state = "all memory is loaded" if found.loaded else f"{there} of {counters['total_pages']} pages loaded"
    rows = [(name, str(value)) for name, value in counters.items() if value]
    lines = [
        f"{found.name}, process {found.pid}: {state}",
        "",
        report.table(("COUNTER", "VALUE"), rows, ("VALUE",)),
    ]
    if found.faults:
        total = statistics.median(fault.total_ns for fault in found.faults)
        lines += ["", f"last {report.count_text(len(found.faults), 'fault')}, median {total / 1e3:.1f} us"]
        lines += [_faults_table(found.faults[-_SHOWN:])]
    return lines


def _faults_table(faults: tuple[telemetry.Fault, ...]) -> str:
    phases = [f"{phase.upper()} US" for phase in telemetry.PHASES]
    rows = [
        (
            f"{(fault.time_ns - faults[-1].time_ns) / 1e6:.3f}",
            str(fault.tid),
            f"{fault.addr:#x}",
            "-" if fault.chunk is None else str(fault.chunk),
            fault.path,
            *(f"{value / 1e3:.1f}" for value in fault.phases_ns.values()),
        )
        for fault in faults
    ]
    return report.table(
        ("MS", "TID", "ADDRESS", "CHUNK", "PATH", *phases), rows, ("MS", "TID", "CHUNK", *phases)
    )
