# SPDX-License-Identifier: Apache-2.0
"""Each step of a checkpoint goes wrong, one after the other: the target does not notice, and no image comes.

A library (tests/faults) makes the n-th call of a function in the checkpoint's worker fail, or kills the
worker there, or the command. Some n are tried; RESTORER_FAULTS=all tries each, RESTORER_FAULTS=3/40 the third
of forty parts.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import ROOT, Program, Restorer, every_fault, is_running, status

STORE = ("pwrite64", "pwrite", "pwritev64", "fdatasync", "fsync", "ftruncate64")
# How many calls there are between the end of a wait and the order to begin it again.
SPARED_MAX = 6
# program, deed, errno or signal, calls and which of them
CASES: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "ptrace": ("undisturbed", "fail", errno.EINVAL, ("ptrace:101", "waitpid:83")),
    "memory": (
        "undisturbed",
        "fail",
        errno.ENOMEM,
        ("process_vm_readv:23", "process_vm_writev:2", "ioctl:3"),
    ),
    "descriptors": ("undisturbed", "fail", errno.EMFILE, ("open64:59", "fcntl64:5", "syscall:211")),
    "proc": ("undisturbed", "fail", errno.EIO, ("read:113", "readlink:307", "pread64:11")),
    "store": ("undisturbed", "fail", errno.ENOSPC, STORE),
    "registers": ("registers", "fail", errno.EINVAL, ("ptrace:89",)),
    "tree": ("tree", "fail", errno.EINVAL, ("ptrace:1201", "process_vm_readv:211")),
    "killed": (
        "undisturbed",
        "kill-before",
        0,
        ("ptrace:101", "process_vm_writev:3", "pwrite:3", "fdatasync"),
    ),
    "killed_after": ("registers", "kill-after", 0, ("ptrace:73", "process_vm_writev:3")),
    "waiting": ("restart_epoll", "fail", errno.EINVAL, ("ptrace:31",)),
    "killed_waiting": ("restart_epoll", "kill-after", 0, ("ptrace:73",)),
    "killed_masked": ("restart_sigsuspend", "kill-after", 0, ("ptrace:73",)),
    "killed_tree": ("tree", "kill-before", 0, ("ptrace:1201",)),
    "terminated": (
        "undisturbed",
        "signal",
        signal.SIGTERM,
        ("ptrace:211", "process_vm_readv:53", "pwrite:5"),
    ),
}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("faults") / "faults.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", target, ROOT / "tests" / "faults" / "faults.c", "-ldl"], check=True)
    return target


def drive(
    library: Path, store: Path, pid: int, deed: str, value: int, calls: tuple[str, ...]
) -> list[dict[str, Any]]:
    """What tests/faults/drive.py tells."""
    if every := every_fault():
        calls = tuple("{}:{}:{}".format(call.partition(":")[0], *reversed(every)) for call in calls)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.drive", store, str(pid), deed, str(int(value)), *calls],
        env={**os.environ, "LD_PRELOAD": str(library)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_target_does_not_notice(
    restorer: Restorer, program: Callable[[str], Program], library: Path, case: str
) -> None:
    name, deed, value, calls = CASES[case]
    started = program(name)
    runs = drive(library, restorer.store, started.pid, deed, value, calls)
    assert len(runs) > 2
    assert [run for run in runs if run["wrong"] or "internal error" in run["error"]] == []
    assert any(run["error"] for run in runs)
    assert sum(run["spared"] for run in runs) <= SPARED_MAX
    restorer.checkpoint(started.pid, "last", "-R")
    restorer.ok("verify")
    started.go()
    assert started.result() == "ok\n"


@pytest.fixture
def room(workdir: Path) -> Iterator[Callable[[int], Path]]:
    """`room(n)`: a file system with room for so many KiB, the last one being gone."""
    folder = workdir / "room"
    folder.mkdir()

    def mount(kib: int) -> Path:
        subprocess.run(["umount", "-q", folder], check=False)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)
        return folder / "store"

    yield mount
    subprocess.run(["umount", "-q", folder], check=False)


@pytest.mark.slow
def test_no_room(restorer: Restorer, program: Callable[[str], Program], room: Callable[[int], Path]) -> None:
    """However far the checkpoint gets before the file system is full."""
    started, stored = program("verify"), 0
    for kib in (4, 64, 128, 512, 2048, 8192, 65536):
        store = room(kib)
        done = restorer.run("checkpoint", started.pid, "image", "-R", store=store)
        assert status(started.pid, "TracerPid") == "0" and is_running(started.pid)
        if done.returncode == 0:
            stored += 1
            assert restorer.run("verify", store=store).returncode == 0
        else:
            assert "internal error" not in done.stderr and str(store) in done.stderr
            listed = restorer.run("list", "--json", store=store)
            assert listed.returncode != 0 or json.loads(listed.stdout)["images"] == []
    assert 1 <= stored < 4
    started.go()
    assert started.result() == "ok\n"
