# SPDX-License-Identifier: Apache-2.0
"""What goes wrong is said in one line that names the cause, the object and the way out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, build, is_running, status

# Root's files, none of its powers; a Python in /root is out of reach for any other user.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@pytest.fixture
def mapped(restorer: Restorer, program: Callable[[str], Program]) -> Program:
    """A program that maps WORKDIR/file, stored as `image` and gone."""
    started = program("file_private")
    restorer.checkpoint(started.pid)
    started.reap()
    return started


def test_pid_taken(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid, "image", "-R")
    message = restorer.fails("restore", "image", "-d", code=125)
    assert str(started.pid) in message and "verify" in message and "--pid ns" in message
    assert is_running(started.pid)


def test_no_such_image(restorer: Restorer, mapped: Program) -> None:
    assert "nothing" in restorer.fails("restore", "nothing", "-d", code=125)
    for verb in ("show", "verify", "rm", "plan"):
        assert "nothing" in restorer.fails(verb, "nothing")


def test_no_such_store(restorer: Restorer, workdir: Path) -> None:
    missing = workdir / "missing"
    assert str(missing) in restorer.fails("restore", "image", "-d", code=125, store=missing)


def test_no_such_process(restorer: Restorer) -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert str(process.pid) in restorer.fails("checkpoint", process.pid, "image")


def expect_refusal(restorer: Restorer, mapped: Program) -> None:
    message = restorer.fails("restore", "image", "-d", code=125)
    assert str(mapped.workdir / "file") in message
    assert mapped.outcome() == ""


def test_file_gone(restorer: Restorer, mapped: Program) -> None:
    (mapped.workdir / "file").rename(mapped.workdir / "elsewhere")
    expect_refusal(restorer, mapped)
    (mapped.workdir / "elsewhere").rename(mapped.workdir / "file")
    expect_works(restorer, mapped)


def test_file_shrunk(restorer: Restorer, mapped: Program) -> None:
    os.truncate(mapped.workdir / "file", 5000)
    expect_refusal(restorer, mapped)


def test_file_replaced(restorer: Restorer, mapped: Program) -> None:
    file = mapped.workdir / "file"
    file.write_bytes(file.read_bytes())
    expect_refusal(restorer, mapped)
    expect_works(restorer, mapped, "--force-files")


def expect_works(restorer: Restorer, mapped: Program, *arguments: str) -> None:
    restored = restorer.restore("image", *arguments)
    mapped.go()
    assert mapped.result(restored) == "ok\n"


def test_program_rebuilt(restorer: Restorer, workdir: Path, cleanup: None) -> None:
    """Code is known by its build-id."""
    executable = workdir / "verify"
    executable.write_bytes(build("verify").read_bytes())
    executable.chmod(0o755)
    folder = workdir / "rebuilt"
    folder.mkdir()
    started = Program("verify", executable, folder)
    started.start()
    restorer.checkpoint(started.pid)
    started.reap()
    executable.write_bytes(build("brk").read_bytes())
    assert str(executable) in restorer.fails("restore", "image", "-d", code=125)


def test_without_privileges(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    message = restorer.fails("checkpoint", started.pid, "image", prefix=POWERLESS)
    assert str(started.pid) in message
    restorer.checkpoint(started.pid, "image", "-R")
    message = restorer.fails("restore", "image", "-d", code=125, prefix=POWERLESS)
    assert "root" in message or "CAP_" in message
    started.go()
    assert started.result() == "ok\n"


@pytest.fixture
def tiny(workdir: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = workdir / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_no_space(restorer: Restorer, program: Callable[[str], Program], tiny: Path) -> None:
    started = program("verify")
    message = restorer.fails("checkpoint", started.pid, "image", store=tiny / "store")
    assert str(tiny / "store") in message
    assert is_running(started.pid) and status(started.pid, "TracerPid") == "0"
    started.go()
    assert started.result() == "ok\n"
