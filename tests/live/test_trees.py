# SPDX-License-Identifier: Apache-2.0
"""Process trees: taken while they fork, restored twice, failing and dying as a whole."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, children, descendants, status, wait_until


def test_taken_while_it_forks(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("tree_forking")
    for number in range(10):
        restorer.checkpoint(started.pid, f"image-{number}", "-R")
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0
    started.reset()
    restored = restorer.restore("image-9")
    started.go()
    assert started.result(restored) == "ok\n"


def test_restored_twice(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("tree")
    restorer.checkpoint(started.pid)
    assert started.reap() == -9
    for pid in ("same", "ns"):
        restored = restorer.restore("image", "--pid", pid)
        started.go()
        assert started.result(restored) == "ok\n"
        restored.wait_gone()
        started.reset()


@pytest.mark.parametrize("arguments", [(), ("--pid", "ns")])
def test_a_child_without_its_pager_takes_the_tree_along(
    restorer: Restorer, program: Callable[[str], Program], arguments: tuple[str, ...]
) -> None:
    started = program("tree")
    restorer.checkpoint(started.pid)
    assert started.reap() == -9
    restored = restorer.restore("image", "--fill", "none", *arguments)
    everybody = [restored.pid, *descendants(restored.pid)]
    assert len(everybody) == 9
    pagers = [pid for pid in descendants(restored.launcher) if status(pid, "Name") == "restorer-pager"]
    assert len(pagers) == 9
    os.kill(pagers[-1], signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in everybody), "the tree to end")


def test_a_taken_pid_is_named_and_nothing_stays(
    restorer: Restorer, program: Callable[[str], Program]
) -> None:
    started = program("tree")
    restorer.checkpoint(started.pid, "image", "-R")
    below = descendants(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    assert started.process is not None
    started.process.wait()
    # They end by the end of what links them to their parents, and stay zombies: nobody waits for them here.
    wait_until(lambda: set(below) <= set(children(os.getpid())), "the children to be orphans")
    before = set(children(os.getpid()))
    message = restorer.fails("restore", "image", "-d", code=125)
    assert any(f"PID {pid} has ended but its parent, PID {os.getpid()}," in message for pid in below)
    assert set(children(os.getpid())) == before


def test_show_tells_of_all_processes(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("tree")
    restorer.checkpoint(started.pid, "image", "-R")
    shown = restorer.ok("show", "image")
    assert all(str(pid) in shown for pid in [started.pid, *descendants(started.pid)])


def test_sessions_left_to_their_pagers_are_waited_for(
    restorer: Restorer, program: Callable[[str], Program]
) -> None:
    """A pager is in the session of its process: while it hears of the end, the session's ID is in use."""
    started = program("tree_groups")
    restorer.checkpoint(started.pid)
    assert started.reap() == -9
    restored = restorer.restore("image", "--fill", "none")
    everybody = [restored.pid, *descendants(restored.pid)]
    pagers = [pid for pid in descendants(restored.launcher) if status(pid, "Name") == "restorer-pager"]
    leaders = [pid for pid in everybody if os.getsid(pid) == pid]
    assert len(leaders) > 1 and set(leaders) <= {os.getsid(pid) for pid in pagers}
    for pid in pagers:
        os.kill(pid, signal.SIGSTOP)
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in everybody), "the tree to end")
    message = restorer.fails("restore", "image", "-d", code=125)
    assert "is in use as a process group or session" in message
    for pid in pagers:
        os.kill(pid, signal.SIGCONT)
    again = restorer.restore("image")
    started.go()
    assert started.result(again) == "ok\n"


def test_show_tells_who_has_one_table(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("tree_tables")
    restorer.checkpoint(started.pid, "image", "-R")
    shown = restorer.ok("show", "image")
    assert shown.count(f"── the descriptors of process {started.pid}\n") == 2
    assert len(re.findall(r"── \d+ descriptors\n", shown)) == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("clone_vm", "process {child} cannot be checkpointed: it shares its memory with process {root} '"),
        ("vfork", "process {root} does not stop: it waits for its child {child} 'vfork', which vfork has"),
    ],
)
def test_who_shares_memory_is_refused_and_runs_on(
    restorer: Restorer, program: Callable[[str], Program], name: str, why: str
) -> None:
    started = program(name)
    (child,) = children(started.pid)
    assert why.format(root=started.pid, child=child) in restorer.fails("checkpoint", started.pid, "image")
    message = restorer.fails("checkpoint", child, "image")
    assert f"process {child} cannot be checkpointed: it shares its memory with process {started.pid} '" in (
        message
    )
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0


@pytest.mark.parametrize(
    ("name", "what"), [("tree_tables", "file descriptors"), ("tree_directories", "working directory")]
)
def test_who_shares_with_a_process_above_is_refused_without_it(
    restorer: Restorer, program: Callable[[str], Program], name: str, what: str
) -> None:
    started = program(name)
    child = min(children(started.pid))
    message = restorer.fails("checkpoint", child, "image")
    assert f"process {child} cannot be checkpointed: it shares its {what} with process {started.pid}" in (
        message
    )
    assert message.endswith("; checkpoint a process above both, or end the other one first")
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0


def test_who_shares_a_table_leaves_it_alone_while_it_is_filled(
    restorer: Restorer, program: Callable[[str], Program]
) -> None:
    """A number that is taken for a moment might be one that the first of them is about to give to a file."""
    started = program("tree_tables")
    restorer.checkpoint(started.pid, "image", "-R")
    programs = restorer.ok("plan", "image").split("\nprogram ")
    mains = [text for text in programs if " 'main " in text.partition("\n")[0]]
    between = [text.partition("wait(tree.borrowed")[2].partition("add(tree.opened")[0] for text in mains]
    assert len(between) == 4
    assert [bool(re.search(r"\bdup3\(", text)) for text in between] == [True, False, True, False]
    touched = re.compile(r"\b(open\w*|dup\d?|fcntl|socket\w*|pipe2|memfd_create|pidfd_\w+|close\w*)\(")
    assert not touched.search(between[1] + between[3])
