# SPDX-License-Identifier: Apache-2.0
"""restore in the foreground: a transparent parent. Exit codes, signals and stdio are the program's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, wait_until

SCRIPT = """
echo ready
while read word number; do
    case $word in exit) exit $number;; *) echo "$word $number";; esac
done
"""


@pytest.fixture
def shell(restorer: Restorer, workdir: Path) -> str:
    """The name of an image of a shell that waits for a line on its stdin, a pipe."""
    with subprocess.Popen(
        ["/bin/sh", "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=workdir,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        wait_until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 "), "it to read")
        restorer.checkpoint(process.pid, "shell")
    return "shell"


@pytest.mark.parametrize("code", [0, 7, 125, 255])
@pytest.mark.parametrize("mode", ["same", "ns"])
def test_exit_code_and_pipes(restorer: Restorer, shell: str, code: int, mode: str) -> None:
    pipe = subprocess.PIPE
    with restorer.foreground(shell, "--pid", mode, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        output, errors = process.communicate(b"hello again\nexit %d\n" % code, timeout=20)
        assert (output, errors) == (b"hello again\n", b"")
        assert process.returncode == code


def test_end_of_input(restorer: Restorer, shell: str) -> None:
    with restorer.foreground(shell, stdin=subprocess.DEVNULL) as process:
        assert process.wait(20) == 0


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("mode", ["same", "ns"])
def test_signals_are_passed_on(restorer: Restorer, shell: str, signo: int, mode: str) -> None:
    with restorer.foreground(shell, "--pid", mode, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"are you\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"are you\n"
        process.send_signal(signo)
        assert process.wait(20) in (128 + signo, -signo)


def test_killed_program(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid)
    started.reap()
    pidfile = started.workdir / "pid"
    with restorer.foreground("image", "--pidfile", pidfile, stdin=subprocess.DEVNULL) as process:
        wait_until(lambda: pidfile.exists() and pidfile.read_text().strip() != "", "the pidfile")
        assert int(pidfile.read_text()) == started.pid
        os.kill(started.pid, signal.SIGKILL)
        assert process.wait(20) == 137


def test_its_own_failure(restorer: Restorer, shell: str) -> None:
    assert "nothing" in restorer.fails("restore", "nothing", code=125)
    assert "--pid" in restorer.fails("restore", shell, "--pid", "other", code=125)
