# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a process that is itself being restored: it gets its memory first."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer, descendants, kill_all_but


@pytest.mark.parametrize("name", ["verify", "tree", "tree_uneven", "lazy_shared"])
@pytest.mark.parametrize("arguments", [("--fill", "none"), (), ("--fill", "none", "--pid", "ns")])
def test_checkpoint_at_once(
    restorer: Restorer, program: Callable[[str], Program], arguments: tuple[str, ...], name: str
) -> None:
    started = program(name)
    restorer.checkpoint(started.pid, "first")
    started.reap()
    before = set(descendants(os.getpid()))
    restored = restorer.restore("first", *arguments)
    restorer.checkpoint(restored.pid, "second")
    kill_all_but(before)
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
