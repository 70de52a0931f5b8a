# SPDX-License-Identifier: Apache-2.0
"""A lock that somebody else has taken in the meantime stops the restore, with the name of the file."""

from __future__ import annotations

import fcntl
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer


@pytest.mark.parametrize(("name", "take"), [("posix", fcntl.lockf), ("exclusive", fcntl.flock)])
def test_lock_taken(
    restorer: Restorer,
    program: Callable[[str], Program],
    name: str,
    take: Callable[[object, int], None],
) -> None:
    started = program("locks")
    restorer.checkpoint(started.pid)
    started.reap()
    with open(started.workdir / name, "r+b") as file:
        take(file, fcntl.LOCK_EX)
        message = restorer.fails("restore", "image", "-d", code=125)
        assert f"lock of {started.workdir / name}" in message and "another process holds it" in message
    restored = restorer.restore()
    started.go()
    assert started.result(restored) == "ok\n"
