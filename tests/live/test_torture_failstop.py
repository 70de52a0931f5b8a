# SPDX-License-Identifier: Apache-2.0
"""Who serves missing pages is killed or stopped at random moments, while a program and its children look at
all of their memory: they are right or dead, and never see a page that nobody brought.

RESTORER_FAILSTOPS=1000 does that many.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live.harness import (
    Program,
    Restored,
    Restorer,
    descendants,
    is_running,
    kill_all,
    pagers,
    wait_until,
)

ROUNDS = int(os.environ.get("RESTORER_FAILSTOPS", "32"))
STEPS = 400
PAUSE_S = 0.03
_REPORT = struct.Struct("<QII")


def signal_to(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_pager(pager: int, _launcher: int) -> None:
    signal_to(pager, signal.SIGKILL)


def kill_launcher(_pager: int, launcher: int) -> None:
    signal_to(launcher, signal.SIGKILL)


def kill_both(pager: int, launcher: int) -> None:
    kill_pager(pager, launcher)
    kill_launcher(pager, launcher)


def stop_pager_kill_launcher(pager: int, launcher: int) -> None:
    signal_to(pager, signal.SIGSTOP)
    signal_to(launcher, signal.SIGKILL)
    time.sleep(PAUSE_S)
    signal_to(pager, signal.SIGCONT)


def stop_launcher_kill_pager(pager: int, launcher: int) -> None:
    signal_to(launcher, signal.SIGSTOP)
    signal_to(pager, signal.SIGKILL)
    time.sleep(PAUSE_S)
    signal_to(launcher, signal.SIGCONT)


def stop_both(pager: int, launcher: int) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in (pager, launcher):
            signal_to(pid, number)
        time.sleep(PAUSE_S)


DEEDS: tuple[Callable[[int, int], None], ...] = (
    kill_pager,
    kill_launcher,
    kill_both,
    stop_pager_kill_launcher,
    stop_launcher_kill_pager,
    stop_both,
)


def wrong_pages(workdir: Path) -> str:
    """The first thing that went wrong, if a page did; that children are killed is no surprise.

    Nor that a child which reads the memory of the program, as it dies, gets EFAULT: what was missing there is
    poisoned, so that nobody reads zeroes.
    """
    report = (workdir / "report").read_bytes()
    _loads, _taken, wrong = _REPORT.unpack_from(report)
    said = report[_REPORT.size :].partition(b"\0")[0].decode() if wrong else ""
    return "" if said.startswith("act_outsider") and said.endswith(os.strerror(errno.EFAULT)) else said


def start(restorer: Restorer, started: Program, seed: int, fill: str) -> Restored:
    started.reset()
    (started.workdir / "torture").write_text(f"{seed} {STEPS}")
    return restorer.restore("image", "--fill", fill)


def judge(started: Program, restored: Restored, victims: tuple[int, int], before: set[int], what: str) -> str:
    """What became of the program; nothing of it is left then."""
    wait_until(lambda: restored.gone or started.outcome() != "", f"{what}: an outcome", 30.0)
    # Its children end on their own: they finish, or meet a page that is poisoned.
    children = set(descendants(os.getpid())) - before - {restored.pid, *victims}
    wait_until(lambda: not any(map(is_running, children)), f"{what}: the end of {children}", 30.0)
    assert wrong_pages(started.workdir) == "", f"{what}: {started.outcome()}"
    # Twice: who is not ours yet will be when its parent has gone, and its PID is needed again.
    for _ in range(2):
        kill_all([pid for pid in descendants(os.getpid()) if pid not in before])
    return "dead" if started.outcome() == "" else "right"


def run(restorer: Restorer, started: Program, seed: int) -> str:
    """One deed at one moment; what became of the program."""
    chance = random.Random(seed)
    deed = DEEDS[seed % len(DEEDS)]
    before = set(descendants(os.getpid()))
    restored = start(restorer, started, seed, chance.choice(["none", "background"]))
    victims = ((pagers(restored.pid) or [restored.launcher])[0], restored.launcher)
    if os.getpid() in victims:
        kill_all([restored.pid])
        return "loaded"
    started.go()
    time.sleep(chance.uniform(0, 0.15))
    deed(*victims)
    return judge(started, restored, victims, before, f"seed {seed}, {deed.__name__}")


@pytest.fixture
def torture(restorer: Restorer, program: Callable[[str], Program]) -> Program:
    started = program("torture")
    restorer.checkpoint(started.pid)
    started.reap()
    return started


@pytest.mark.slow
def test_right_or_dead(restorer: Restorer, torture: Program) -> None:
    outcomes = [run(restorer, torture, seed) for seed in range(ROUNDS)]
    print({outcome: outcomes.count(outcome) for outcome in set(outcomes)})
    assert "dead" in outcomes


@pytest.mark.parametrize("seed", range(3))
def test_child_that_the_launcher_never_heard_of(restorer: Restorer, torture: Program, seed: int) -> None:
    """The message about it, with its userfaultfd, is all that is left when pager and launcher are killed."""
    before = set(descendants(os.getpid()))
    restored = start(restorer, torture, seed, "none")
    victims = (pagers(restored.pid)[0], restored.launcher)
    signal_to(restored.launcher, signal.SIGSTOP)
    torture.go()
    wait_until(lambda: bool(descendants(restored.pid)), "a child")
    kill_both(*victims)
    assert judge(torture, restored, victims, before, f"seed {seed}") == "dead"
