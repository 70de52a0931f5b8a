# SPDX-License-Identifier: Apache-2.0
"""--pid ns: the old PIDs inside, new ones outside, and the whole namespace goes with the program."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer, kill_all, status


def test_pids_inside_and_outside(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("threads")
    tids = sorted(int(tid) for tid in os.listdir(f"/proc/{started.pid}/task"))
    restorer.checkpoint(started.pid, "image", "-R")
    copies = [restorer.restore("image", "--pid", "ns") for _ in range(3)]
    assert len({copy.pid for copy in copies} | {started.pid}) == 4
    for copy in copies:
        inside = [int(status(int(tid), "NSpid").split()[-1]) for tid in os.listdir(f"/proc/{copy.pid}/task")]
        assert sorted(inside) == tids
        assert os.readlink(f"/proc/{copy.pid}/ns/pid") != os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("fill", ["background", "none"])
@pytest.mark.parametrize("options", [(), ("-R",)])
def test_again(
    restorer: Restorer, program: Callable[[str], Program], fill: str, options: tuple[str, ...]
) -> None:
    """A copy in a namespace of its own is a process like any other, its memory there or not."""
    started = program("verify")
    restorer.checkpoint(started.pid, "first")
    started.reap()
    first = restorer.restore("first", "--pid", "ns", "--fill", fill)
    restorer.checkpoint(first.pid, "second", *options)
    kill_all([first.pid])
    first.wait_gone()
    second = restorer.restore("second", "--pid", "ns", "--fill", fill)
    assert status(second.pid, "NSpid").split()[-1] == str(started.pid)
    started.go()
    assert started.result(second) == "ok\n"


def test_again_in_a_chroot(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """Of the mounts of its namespace, /proc/PID/mountinfo shows those that lie below its root directory."""
    started = program("chroot")
    restorer.checkpoint(started.pid, "first")
    started.reap()
    first = restorer.restore("first", "--pid", "ns")
    restorer.checkpoint(first.pid, "second")
    kill_all([first.pid])
    second = restorer.restore("second", "--pid", "ns")
    started.go()
    assert started.result(second) == "ok\n"


def test_again_from_inside(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """Without -R the namespace would end with the program, and with the namespace the command."""
    started = program("verify")
    restorer.checkpoint(started.pid, "first")
    started.reap()
    first = restorer.restore("first", "--pid", "ns", "--fill", "before")
    done = restorer.run(
        "checkpoint", started.pid, "second", "-R", prefix=("nsenter", "-t", str(first.pid), "-a")
    )
    assert done.returncode == 0, done.stderr
    kill_all([first.pid])
    first.wait_gone()
    second = restorer.restore("second", "--pid", "ns")
    started.go()
    assert started.result(second) == "ok\n"
