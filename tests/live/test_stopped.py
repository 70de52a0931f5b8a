# SPDX-License-Identifier: Apache-2.0
"""A target that was stopped stays stopped, original and restored, until SIGCONT."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restored, Restorer, status, wait_until


def resume(program: Program, pid: int, restored: Restored | None = None) -> None:
    assert status(pid, "State")[:1] == "T"
    program.go()
    os.kill(pid, signal.SIGCONT)
    assert program.result(restored) == "ok\n"


@pytest.fixture
def stopped(program: Callable[[str], Program]) -> Program:
    started = program("stopped")
    wait_until(lambda: status(started.pid, "State")[:1] == "T", "it to stop")
    return started


def test_leave_running(restorer: Restorer, stopped: Program) -> None:
    restorer.checkpoint(stopped.pid, "image", "-R")
    resume(stopped, stopped.pid)


@pytest.mark.parametrize("mode", ["same", "ns"])
@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_restored(restorer: Restorer, stopped: Program, mode: str, fill: str) -> None:
    restorer.checkpoint(stopped.pid)
    stopped.reap()
    restored = restorer.restore("image", "--pid", mode, "--fill", fill)
    wait_until(lambda: status(restored.pid, "State")[:1] == "T", "it to be stopped")
    resume(stopped, restored.pid, restored)
