# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a process that is itself being restored: it gets its memory first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer, kill_all


@pytest.mark.parametrize("fill", ["none", "background"])
def test_checkpoint_at_once(restorer: Restorer, program: Callable[[str], Program], fill: str) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid, "first")
    started.reap()
    restored = restorer.restore("first", "--fill", fill)
    restorer.checkpoint(restored.pid, "second")
    kill_all([restored.pid])
    restorer.ok("rm", "first")
    restorer.ok("gc")
    again = restorer.restore("second")
    started.go()
    assert started.result(again) == "ok\n"


def test_leave_running(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid, "first")
    started.reap()
    restored = restorer.restore("first", "--fill", "none")
    restorer.checkpoint(restored.pid, "second", "-R")
    started.go()
    assert started.result(restored) == "ok\n"
