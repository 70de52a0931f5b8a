# SPDX-License-Identifier: Apache-2.0
"""A tree that is held stands still, all of it, or it is not held at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from restorer.errors import ProcessError
from restorer.frozen import seize_tree
from restorer.procfs import Process
from restorer.tracee import Unstoppable

SOURCE = Path(__file__).parent / "tracee" / "chain.c"


@pytest.mark.parametrize("microseconds", [5000, 20000])
def test_a_chain_of_forks_is_held_or_not(tmp_path: Path, microseconds: int) -> None:
    """Each process lives for a moment: who is found dead may have left another behind."""
    chain = tmp_path / "chain"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", chain, SOURCE], check=True)
    with subprocess.Popen([chain, str(microseconds)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.read(6) == b"ready\n"
            for _ in range(2):
                _hold(child.pid)
        finally:
            child.kill()  # and with it the chain ends


def _hold(pid: int) -> None:
    try:
        with seize_tree(pid) as frozen:
            everybody = sorted([*frozen.pids[1:], *frozen.zombies])
            time.sleep(0.1)
            assert sorted(child for one in frozen.pids for child in Process(one).children()) == everybody
    except ProcessError as error:
        assert "faster than they can be held" in str(error)
    assert Process(pid).status.tracer == 0


# Its parent waits for the child as for one of vfork(2), uninterruptibly, but has memory of its own.
STUCK = """
import ctypes, os, signal
CLONE_VFORK, SYS_CLONE = 0x4000, 56
child = ctypes.PyDLL(None).syscall(SYS_CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0)
if child == 0:
    print("ready", flush=True)
    os.read(0, 1)
    os._exit(0)
print("over", flush=True)
os.read(0, 1)
"""


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a thread that waits uninterruptibly until somebody writes to it."""
    monkeypatch.setattr("restorer.tracee._STOP_TIMEOUT_S", 0.3)
    command = [sys.executable, "-I", "-S", "-c", STUCK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None and child.stdout.read(6) == b"ready\n"
        yield child
        child.kill()


def test_who_is_stuck_is_waited_for(stuck: subprocess.Popen[bytes]) -> None:
    """Nobody is held meanwhile: the child, which is not stuck, goes on."""
    assert stuck.stdin is not None and stuck.stdout is not None
    tracers: list[int] = []
    ended: list[float] = []

    def check() -> None:
        if ended:
            return
        (child,) = Process(stuck.pid).children()
        tracers.append(Process(child).status.tracer)
        if len(tracers) == 10:
            assert stuck.stdin is not None
            ended.append(time.monotonic())
            stuck.stdin.write(b"1")

    with seize_tree(stuck.pid, check) as frozen:
        assert frozen.pids == [stuck.pid] and frozen.threads == 1
        assert frozen.since > ended[0]
    assert tracers == [0] * 10
    assert stuck.stdout.read(5) == b"over\n"


def test_who_stays_stuck_is_named(stuck: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restorer.frozen._STUCK_PATIENCE_S", 0.5)
    reason = f"its thread {stuck.pid} waits uninterruptibly in the kernel"
    with pytest.raises(Unstoppable, match=reason) as caught, seize_tree(stuck.pid):
        pass
    assert stuck.stdin is not None and stuck.stdout is not None
    stuck.stdin.write(b"1")
    assert caught.value.wait(time.monotonic() + 5, lambda: None)
    assert stuck.stdout.read(5) == b"over\n"
