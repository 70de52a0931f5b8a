# SPDX-License-Identifier: Apache-2.0
"""The clocks since boot: a restore is a long pause to the program, or with --time continue hardly any."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restored, Restorer, build, still_running, wait_until

AWAY_S = 0.5
FILLS = ["background", "none", "before"]


def missed_ms(program: Program) -> int:
    """How much real time passed that the program's monotonic clock did not count."""
    return int((program.workdir / "missed").read_text())


def restore(restorer: Restorer, program: Program, *arguments: str) -> Restored:
    restored = restorer.restore("image", *arguments)
    program.go()
    assert program.result(restored) == "ok\n"
    return restored


@pytest.fixture
def taken(restorer: Restorer, program: Callable[[str], Program]) -> Program:
    """Checkpointed some seconds ago."""
    started = program("clocks")
    restorer.checkpoint(started.pid)
    started.reap()
    time.sleep(AWAY_S)
    return started


@pytest.mark.parametrize("mode", ["same", "ns"])
@pytest.mark.parametrize("fill", FILLS)
def test_continued(restorer: Restorer, taken: Program, mode: str, fill: str) -> None:
    restore(restorer, taken, "--time", "continue", "--pid", mode, "--fill", fill).wait_gone()
    assert missed_ms(taken) >= AWAY_S * 1000


def test_of_the_machine(restorer: Restorer, taken: Program) -> None:
    restore(restorer, taken).wait_gone()
    assert abs(missed_ms(taken)) < 100


def test_again(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """A continued one is checkpointed, and goes on from there without being told to."""
    started = program("clocks")
    restorer.checkpoint(started.pid)
    started.reap()
    time.sleep(AWAY_S)
    again = restorer.restore("image", "--time", "continue")
    restorer.checkpoint(again.pid, "again")
    wait_until(lambda: not still_running([again.pid]), "it to be reaped")
    time.sleep(AWAY_S)
    restored = restorer.restore("again")
    started.go()
    assert started.result(restored) == "ok\n"
    assert missed_ms(started) >= 2 * AWAY_S * 1000


def test_after_a_boot(restorer: Restorer, workdir: Path) -> None:
    """The machine's clocks are far behind those of the image, as after a boot: they go on all the same."""
    started = Program("clocks", build("clocks"), workdir / "clocks")
    started.workdir.mkdir()
    ahead = ["unshare", "--time", "--monotonic", "1000000", "--boottime", "2000000"]
    started.process = subprocess.Popen(
        [*ahead, started.executable, started.workdir],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until((started.workdir / "ready").exists, "the program to be ready")
    restorer.checkpoint(started.pid)
    started.reap()
    time.sleep(AWAY_S)
    restore(restorer, started).wait_gone()
    assert missed_ms(started) >= AWAY_S * 1000
