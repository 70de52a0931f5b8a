# SPDX-License-Identifier: Apache-2.0
"""The worker process of a checkpoint: results, errors, and what becomes of it when its parent dies."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from restorer.errors import LaunchError, Refused, RestorerError
from restorer.worker import Interrupted, Link, run_in_worker

_STEP_S = 0.002


def _forever(link: Link, undone: Path) -> dict[str, Any]:
    try:
        link.send(done=0, total=1)
        while True:
            time.sleep(_STEP_S)
            link.check()
    finally:
        undone.write_text(str(os.getpid()))


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(_STEP_S)
    return path.read_text()


def _runs(pid: int) -> bool:
    """Whether it has not ended; whoever adopted it may not have reaped it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


def test_the_result_and_the_progress_come_back() -> None:
    seen: list[tuple[int, int]] = []

    def job(link: Link) -> dict[str, Any]:
        link.progress(1, 2)
        link.progress(2, 2)
        return {"pid": os.getpid(), "session": os.getsid(0)}

    result = run_in_worker(job, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert result["pid"] == result["session"] != os.getpid()


@pytest.mark.parametrize(
    ("error", "code"), [(Refused("fd 5: a timerfd", "close it"), 1), (LaunchError("no"), 125)]
)
def test_an_error_keeps_its_words_and_its_code(error: RestorerError, code: int) -> None:
    def job(_link: Link) -> dict[str, Any]:
        raise error

    with pytest.raises(RestorerError) as caught:
        run_in_worker(job)
    assert (str(caught.value), caught.value.exit_code) == (str(error), code)


def test_a_defect_is_one_line() -> None:
    def job(_link: Link) -> dict[str, Any]:
        raise ZeroDivisionError("a\nb")

    with pytest.raises(RestorerError, match="internal error: ZeroDivisionError: a b"):
        run_in_worker(job)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_undoes_before_it_is_reported(number: signal.Signals, tmp_path: Path) -> None:
    undone = tmp_path / "undone"
    # Under nohup SIGHUP is ignored, and stays so.
    previous = signal.getsignal(number)
    if previous == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    with pytest.raises(Interrupted) as caught:
        run_in_worker(lambda link: _forever(link, undone), lambda _done, _total: os.kill(os.getpid(), number))
    signal.signal(number, previous)
    assert caught.value.exit_code == 128 + number
    assert undone.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_that_waits_is_left_alone(tmp_path: Path) -> None:
    started, undone = tmp_path / "started", tmp_path / "undone"
    pause, release = os.pipe()

    def job(link: Link) -> dict[str, Any]:
        link.waiting(True)
        started.write_text(str(os.getpid()))
        link.send(done=0, total=1)
        os.close(release)
        select.select([pause], [], [])
        link.waiting(False)
        return _forever(link, undone)

    with pytest.raises(Interrupted):
        run_in_worker(job, lambda _done, _total: os.kill(os.getpid(), signal.SIGINT))
    assert not undone.exists()
    os.close(release)
    os.close(pause)
    pid = int(_wait_for(undone))
    os.waitpid(pid, 0)


def test_a_worker_that_is_killed_is_an_error() -> None:
    def job(_link: Link) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with pytest.raises(RestorerError, match="worker process was killed by SIGKILL"):
        run_in_worker(job)


def test_a_parent_that_is_killed_makes_the_worker_undo(tmp_path: Path) -> None:
    undone = tmp_path / "undone"
    parent = os.fork()
    if parent == 0:
        run_in_worker(
            lambda link: _forever(link, undone), lambda _d, _t: os.kill(os.getpid(), signal.SIGKILL)
        )
        os._exit(0)
    os.waitpid(parent, 0)
    worker = int(_wait_for(undone))
    deadline = time.monotonic() + 10
    while _runs(worker):
        assert time.monotonic() < deadline, "the worker has undone what it did, and does not end"
        time.sleep(_STEP_S)
