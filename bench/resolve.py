# SPDX-License-Identifier: Apache-2.0
"""The same missing pages, in random order, brought by MOVE, COPY and mremap: latency, throughput, mappings.

RESTORER_BENCH_FAULTS pages (1,000,000: 4 GB) by each; C does the work (resolve.c), one process a run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench.subject import build
from restorer.report import table

__all__ = ["measure"]

_METHODS = ("move", "copy", "mremap")
_SHARES = ("0 %", "1 %", "2 %", "3 %", "10 %", "25 %", "50 %", "100 %")  # sample_permille of resolve.c
_ROUNDS_MAX = 3  # the mappings of mremap take seconds to make


def _run(program: Path, method: str, faults: int) -> dict[str, Any]:
    done = subprocess.run([program, method, str(faults)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{method} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _row(method: str, results: list[dict[str, Any]]) -> tuple[str, ...]:
    def median(value: str) -> float:
        return float(statistics.median(result[value] for result in results))

    end = results[-1]["error"]
    return (
        method,
        f"{results[-1]['done']:,}",
        f"{median('median_ns') / 1e3:.1f}",
        f"{median('p99_ns') / 1e3:.1f}",
        f"{statistics.median(result['done'] / result['wall_ns'] for result in results) * 1e9:,.0f}",
        end or "all resolved",
    )


def _mappings(method: str, result: dict[str, Any]) -> tuple[str, ...]:
    """After shares of the faults, nothing where it had ended before; and at its end."""
    counts = [f"{count:,}" for count in result["vmas"]]
    return (method, *counts, *[""] * (len(_SHARES) - len(counts)), f"{result['vmas_end']:,}")


def measure(folder: Path, rounds: int) -> str:
    """Three tables: what a fault costs, how many mappings there are, what a fork does to MOVE."""
    faults = int(os.environ.get("RESTORER_BENCH_FAULTS", "1000000"))
    program = build("resolve", folder)
    results: dict[str, list[dict[str, Any]]] = {method: [] for method in _METHODS}
    for _ in range(min(rounds, _ROUNDS_MAX)):
        for method in _METHODS:
            results[method].append(_run(program, method, faults))
    fork = _run(program, "fork", 1)
    costs = ("BY", "FAULTS", "MEDIAN US", "P99 US", "FAULTS/S", "END")
    shares = ("MAPPINGS AFTER", *_SHARES, "END")
    moves = ("MOVE FROM STAGING", "SHARED BY A FORK", "AFTER THE CHILD'S END", "REWRITTEN")
    return "\n\n".join(
        (
            table(costs, [_row(method, results[method]) for method in _METHODS], right=costs[1:5]),
            table(shares, [_mappings(method, results[method][0]) for method in _METHODS], right=shares[1:]),
            table(moves, [("plain", *fork["plain"]), ("MADV_DONTFORK", *fork["dontfork"])]),
        )
    )
