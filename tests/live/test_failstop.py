# SPDX-License-Identifier: Apache-2.0
"""Who serves missing pages is killed: the program dies with it, and never reads zeroes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.live.harness import Program, Restored, Restorer, is_running, pagers, wait_until


def victims_of(restored: Restored, who: str) -> list[int]:
    (pager,) = pagers(restored.pid)
    return {"pager": [pager], "launcher": [restored.launcher], "both": [pager, restored.launcher]}[who]


@pytest.fixture
def lazy(restorer: Restorer, program: Callable[[str], Program]) -> Callable[[str], tuple[Program, Restored]]:
    """`verify`, restored with nothing but its never-lazy pages."""

    def start(mode: str) -> tuple[Program, Restored]:
        started = program("verify")
        restorer.checkpoint(started.pid)
        started.reap()
        return started, restorer.restore("image", "--fill", "none", "--pid", mode)

    return start


@pytest.mark.parametrize("mode", ["same", "ns"])
@pytest.mark.parametrize("who", ["pager", "launcher", "both"])
def test_idle(lazy: Callable[[str], tuple[Program, Restored]], who: str, mode: str) -> None:
    started, restored = lazy(mode)
    for victim in victims_of(restored, who):
        os.kill(victim, signal.SIGKILL)
    restored.wait_gone()
    assert started.outcome() == ""


@pytest.mark.parametrize("who", ["pager", "launcher"])
@pytest.mark.parametrize("round_", range(4))
def test_while_reading(lazy: Callable[[str], tuple[Program, Restored]], who: str, round_: int) -> None:
    started, restored = lazy("same")
    (victim,) = victims_of(restored, who)
    started.go()
    time.sleep(random.Random(round_).uniform(0, 0.03))
    with suppress(ProcessLookupError):  # gone, since all has been read by now
        os.kill(victim, signal.SIGKILL)
    restored.wait_gone()
    assert started.outcome() in ("", "ok\n")


def test_launcher_in_foreground(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid)
    started.reap()
    with restorer.foreground("image", "--fill", "none", stdin=subprocess.DEVNULL) as launcher:
        wait_until(lambda: pagers(started.pid) != [], "its pager")
        launcher.kill()
        launcher.wait()
        wait_until(lambda: not is_running(started.pid), "its end")
    assert started.outcome() == ""
