# SPDX-License-Identifier: Apache-2.0
"""Everything at once that a program may do to its memory while pages are missing, held against a model.

RESTORER_TORTURE=1000000 looks at that many pages, over ten seeds, instead of a small number.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import (
    Program,
    Restored,
    Restorer,
    descendants,
    kill_all_but,
    sharers,
    wait_until,
)

LOADS = int(os.environ.get("RESTORER_TORTURE", "0"))
SEEDS = range(1, 11) if LOADS else range(1, 4)
STEPS = 60
PAGER_FDS = 5


def fds(pid: int) -> set[str]:
    """None of a process that has gone."""
    try:
        return {entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return set()


def order(started: Program, seed: int, steps: int) -> None:
    (started.workdir / "torture").write_text(f"{seed} {steps}")
    (started.workdir / "hold").touch()


def torture(restorer: Restorer, started: Program, seed: int, fill: str, steps: int = STEPS) -> int:
    """One restore put to torture; how many pages it looked at."""
    others = set(descendants(os.getpid()))
    started.reset()
    order(started, seed, steps)
    restored = restorer.restore("image", "--fill", fill)
    launcher, before = restored.launcher, fds(restored.pid)
    if fill == "none":
        held = fds(launcher)
    started.go()
    assert started.result(restored, timeout_s=120.0) == "ok\n", f"seed {seed}, fill {fill}"
    assert fds(restored.pid) <= before
    if fill == "none":
        leaves_nothing(restored, launcher, held)
    else:
        restored.wait_loaded()
        assert not sharers(restored.pid)
    loads = int((started.workdir / "loads").read_text())
    # Its PID is needed again, and is a session's until its children and all helpers have gone.
    kill_all_but(others)
    return loads


def leaves_nothing(restored: Restored, launcher: int, held: set[str]) -> None:
    """Pager and launcher hold nothing for children that have gone; they may be gone too, all being there."""
    for pager in sharers(restored.pid):
        few = functools.partial(lambda pid: len(fds(pid)) <= PAGER_FDS, pager)
        wait_until(few, f"fds {fds(pager)} of the pager", 5.0)
    wait_until(lambda: fds(launcher) <= held, f"fds {fds(launcher)} of the launcher", 5.0)


@pytest.fixture
def tortured(restorer: Restorer, program: Callable[[str], Program]) -> Program:
    started = program("torture")
    restorer.checkpoint(started.pid)
    started.reap()
    return started


@pytest.mark.parametrize("fill", ["none", "background"])
def test_seeds(restorer: Restorer, tortured: Program, fill: str) -> None:
    loads = 0
    for seed in SEEDS:
        rounds = 0
        while rounds == 0 or loads < LOADS * (seed / len(SEEDS)) / 2:
            loads += torture(restorer, tortured, seed + 1000 * rounds, fill)
            rounds += 1
    assert loads >= LOADS / 2
    print(f"{loads} pages were right, filled by {fill}")
