# SPDX-License-Identifier: Apache-2.0
"""Shared memory comes back lazily, and goes wrong for nobody."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restored, Restorer


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


def counters(restorer: Restorer, restored: Restored) -> dict[str, int]:
    found: dict[str, dict[str, int]] = json.loads(restorer.ok("stats", restored.pid, "--json"))
    return found["counters"]
