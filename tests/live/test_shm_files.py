# SPDX-License-Identifier: Apache-2.0
"""Shared memory that has a name: what is in it is the image's, but where others have it too."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.harness import (
    WORKDIR_PREFIX,
    Program,
    Restorer,
    ipc_objects,
    kill_all,
    remove_ipc,
    script,
    shm_file,
)

PROGRAM = "shm_files"  # the files are still there once it is in the store
_HOLD = "import mmap, sys; file = open(sys.argv[1], 'r+b'); m = mmap.mmap(file.fileno(), 0); file.close(); "
_HOLD += "print('has it', flush=True); sys.stdin.read()"
_READER = """
import mmap
file = open(PATH, "w+b"); file.write(b"before".ljust(4096)); file.flush()
memory = mmap.mmap(file.fileno(), 4096); file.close()
finish = lambda: memory[:6].decode()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else has it mapped meanwhile."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "has it\n"
        yield
        holder.kill()


def test_after_a_boot(restorer: Restorer, stored: Program) -> None:
    remove_ipc(stored.workdir)
    restored = restorer.restore("image")
    stored.go()
    assert stored.result(restored) == "ok\n"


def test_twice(restorer: Restorer, stored: Program) -> None:
    """The program leaves something else there than it has found."""
    for _ in range(2):
        restored = restorer.restore("image")
        stored.go()
        assert stored.result(restored) == "ok\n"
        kill_all([restored.pid])
        stored.reset()


def test_found_as_it_was_not(restorer: Restorer, stored: Program) -> None:
    for _, number in ipc_objects(stored.workdir):
        shm_file(number).write_bytes(b"of another" * 999)
    restored = restorer.restore("image")
    stored.go()
    assert stored.result(restored) == "ok\n"


def test_somebody_has_it(restorer: Restorer, stored: Program) -> None:
    (_, first), (_, second) = ipc_objects(stored.workdir)
    shm_file(first).write_bytes(b"of another")
    shm_file(second).unlink()
    with held(shm_file(first)):
        message = restorer.fails("restore", "image", "-d", code=125)
    assert f"{shm_file(first)}: " in message and "end who has it open or mapped" in message
    assert shm_file(first).read_bytes() == b"of another" and not shm_file(second).exists()


@pytest.fixture
def shared(workdir: Path) -> Iterator[Path]:
    """A file that shm_open could have made."""
    path = Path("/dev/shm", f"{workdir.name}.shared")
    yield path
    path.unlink(missing_ok=True)


def test_of_others_too(restorer: Restorer, workdir: Path, shared: Path) -> None:
    """It is theirs then, and what they write while the program is away is what it finds."""
    started = script(workdir / "others", _READER.replace("PATH", repr(str(shared))))
    started.start()
    with held(shared):
        taken = restorer.take(started)
    expect_from_file(restorer, taken, shared)


def test_of_a_folder_below(restorer: Restorer, workdir: Path) -> None:
    """A file as any other, whose neighbours are not taken either."""
    with tempfile.TemporaryDirectory(prefix=WORKDIR_PREFIX, dir="/dev/shm") as folder:
        path = Path(folder) / "database"
        started = script(workdir / "below", _READER.replace("PATH", repr(str(path))))
        started.start()
        expect_from_file(restorer, restorer.take(started), path)


def expect_from_file(restorer: Restorer, taken: Program, path: Path) -> None:
    path.write_bytes(b"after!".ljust(4096))
    restored = restorer.restore("image")
    taken.go()
    assert taken.result(restored) == "after!\n"
    kill_all([restored.pid])
