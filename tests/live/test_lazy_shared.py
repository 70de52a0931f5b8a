# SPDX-License-Identifier: Apache-2.0
"""Shared memory comes back lazily, and goes wrong for nobody."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.live.harness import (
    Program,
    Restored,
    Restorer,
    children,
    is_running,
    pagers,
    still_running,
    wait_until,
)


@pytest.mark.parametrize("name", ["lazy_shared", "lazy_shared_mremap", "lazy_memfds"])
def test_is_lazy(restorer: Restorer, program: Callable[[str], Program], name: str) -> None:
    """Most of it is not there when the program resumes, and comes when it is touched."""
    started = program(name)
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--fill", "none")
    before = counters(restorer, restored)
    assert before["eager_pages"] < before["total_pages"] / 2
    assert before["copied_pages"] < before["total_pages"] / 2
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


@pytest.mark.parametrize("who", ["pager", "pager of the child", "launcher"])
@pytest.mark.parametrize("round_", range(3))
def test_fail_stop(restorer: Restorer, program: Callable[[str], Program], who: str, round_: int) -> None:
    """Who serves missing pages is killed: all who share the memory die, and have seen nothing wrong."""
    started = program("lazy_shared")
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--fill", "none")
    tree = [restored.pid, *children(restored.pid)]
    assert len(tree) == 3
    victim = {"launcher": restored.launcher, "pager": pager_of(tree[0])}.get(who) or pager_of(tree[1])
    started.go()
    time.sleep(random.Random(round_).uniform(0, 0.03))
    os.kill(victim, signal.SIGKILL)
    restored.wait_gone()
    wait_until(lambda: not still_running([pid for pid in tree if is_running(pid)]), "the end of the tree")
    assert started.outcome() in ("", "ok\n")


def pager_of(pid: int) -> int:
    (pager,) = pagers(pid)
    return pager


def counters(restorer: Restorer, restored: Restored) -> dict[str, int]:
    found: dict[str, dict[str, int]] = json.loads(restorer.ok("stats", restored.pid, "--json"))
    return found["counters"]
