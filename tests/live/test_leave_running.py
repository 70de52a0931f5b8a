# SPDX-License-Identifier: Apache-2.0
"""-R: the target runs on; without it the target goes, once the image is there and not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, is_running, status


def test_many_times(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("registers")
    for number in range(5):
        restorer.checkpoint(started.pid, f"image{number}", "-R")
        assert is_running(started.pid)
        assert status(started.pid, "TracerPid") == "0"
    started.go()
    assert started.result() == "ok\n"


def test_original_and_copy(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """The copy is what the original was at that moment; neither knows of the other."""
    started = program("verify")
    restorer.checkpoint(started.pid, "image", "-R")
    copy = restorer.restore("image", "--pid", "ns", "--fill", "none")
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0
    copy.wait_gone()
    assert started.outcome() == "ok\n"


@pytest.mark.parametrize("failing", ["/proc/no/such/place", "/dev/null/store"])
def test_killed_only_after_success(
    restorer: Restorer, program: Callable[[str], Program], failing: str
) -> None:
    started = program("verify")
    done = restorer.run("checkpoint", started.pid, "image", store=Path(failing))
    assert done.returncode in (1, 2)
    assert is_running(started.pid) and status(started.pid, "TracerPid") == "0"
    started.go()
    assert started.result() == "ok\n"
