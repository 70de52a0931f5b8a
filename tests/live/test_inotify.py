# SPDX-License-Identifier: Apache-2.0
"""A watched file that is not there any more stops the restore, with its name."""

from __future__ import annotations

from collections.abc import Callable

from tests.live.harness import Program, Restorer


def test_watched_file_has_gone(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("inotify")
    restorer.checkpoint(started.pid)
    started.reap()
    once, aside = started.workdir / "once", started.workdir / "aside"
    once.rename(aside)
    message = restorer.fails("restore", "image", "-d", code=125)
    assert f"inotify watch 10 of {once}" in message and "make it again" in message
    aside.rename(once)
    restored = restorer.restore()
    started.go()
    assert started.result(restored) == "ok\n"
