# SPDX-License-Identifier: Apache-2.0
"""A watched file that is not there any more stops the restore; what was not read may be lost."""

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


def test_events_may_be_lost(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("inotify")
    (started.workdir / "file").chmod(0o644)
    message = restorer.fails("checkpoint", started.pid, "image")
    assert "16 bytes of events that were not read" in message and "--skip-in-flight" in message
    restorer.checkpoint(started.pid, "image", "--skip-in-flight")
    started.reap()
    restored = restorer.restore()
    started.go()
    assert started.result(restored) == "ok\n"


def test_events_are_lost_by_the_copy_alone(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("inotify")
    (started.workdir / "file").chmod(0o644)
    restorer.checkpoint(started.pid, "image", "-R", "--skip-in-flight")
    started.go()
    assert "read(watch, text, sizeof text) == -1" in started.result()
    assert started.reap() == 1
