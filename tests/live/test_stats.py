# SPDX-License-Identifier: Apache-2.0
"""`restorer stats` looks at a restore that goes on, from outside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from restorer import telemetry
from restorer.native import lib, offset_of, size_of
from restorer.store import open_store, processes
from restorer.telemetry import COUNTERS, COUNTERS_OFFSET, FAULT, PATHS, PHASES, RING, TRACE, TRACE_OFFSET
from tests.live.harness import Program, Restored, Restorer, kill_all, read_memory

# Other tests restore at the same time, and stats sees all of the machine.
NAME = "test-stats"


@pytest.fixture
def lazy(restorer: Restorer, program: Callable[[str], Program]) -> tuple[Program, Restored]:
    """A program that has none of its 32 MB, and gets them one by one."""
    started = program("verify")
    restorer.checkpoint(started.pid, NAME)
    started.reap()
    return started, restorer.restore(NAME, "--fill", "none")


def test_structures() -> None:
    assert size_of("struct wr_counters") == 8 * len(COUNTERS)
    assert offset_of("struct wr_ctl", "counters") == COUNTERS_OFFSET
    assert [offset_of("struct wr_counters", name) for name in COUNTERS] == [
        8 * i for i in range(len(COUNTERS))
    ]
    assert size_of("struct wr_trace") == TRACE.size + RING * FAULT.size
    assert (size_of("struct wr_fault"), lib.WR_TRACE_OFFSET) == (FAULT.size, TRACE_OFFSET)
    assert [getattr(lib, f"WR_PATH_{path.upper()}") for path in PATHS] == list(range(len(PATHS)))
    assert [getattr(lib, f"WR_PHASE_{phase.upper()}") for phase in PHASES] == list(range(lib.WR_PHASES))


def test_live(lazy: tuple[Program, Restored], restorer: Restorer) -> None:
    started, restored = lazy
    index, addr = lazy_page(restorer)
    read_memory(restored.pid, addr, 8)
    found = json.loads(restorer.ok("stats", restored.pid, "--json"))
    assert (found["name"], found["pid"], found["loaded"]) == (NAME, restored.pid, False)
    assert found["counters"]["total_pages"] > 1000
    check_fault(next(fault for fault in found["faults"] if fault["addr"] == addr), index)
    assert found["used_chunks"] > 0
    assert f"{NAME}, process {restored.pid}: " in restorer.ok("stats", NAME)
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


def lazy_page(restorer: Restorer) -> tuple[int, int]:
    """A chunk of the image that nobody has asked for, by its record, and the address of its first page."""
    with open_store(restorer.store) as store:
        process = processes(store.load(NAME))[0]
        chunks = store.records(process.map_id, process.map_check)
    index = max(range(len(chunks)), key=lambda i: (chunks[i].flags == 0) * chunks[i].pages)
    return index, chunks[index].addr + 4096 * ((chunks[index].mask & -chunks[index].mask).bit_length() - 1)


def check_fault(fault: dict[str, Any], index: int) -> None:
    """It was ours, a moment ago."""
    assert set(fault["phases_ns"]) == set(PHASES)
    assert (fault["tid"], fault["chunk"]) == (os.getpid(), index)
    assert fault["path"] in ("move", "copy")
    assert 0 < time.monotonic_ns() - fault["time_ns"] < 60e9
    assert 0 < sum(fault["phases_ns"].values()) < 5e9


def test_several_of_a_name(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid, NAME)
    started.reap()
    both = [restorer.restore(NAME, "--fill", "none", "--pid", "ns").pid for _ in range(2)]
    assert all(str(pid) in restorer.fails("stats", NAME) for pid in both)
    assert [telemetry.find(str(pid)).pid for pid in both] == both
    kill_all(both)


def test_nothing_restored(restorer: Restorer) -> None:
    assert "nothing that is being restored" in restorer.fails("stats", os.getpid())
