# SPDX-License-Identifier: Apache-2.0
"""What a program was using of its files is read ahead, where it is not in the page cache, and no more."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, build, kill_all, wait_until

PAGES, USED = 1024, 256
_libc = ctypes.CDLL(None, use_errno=True)


def cached_pages(path: Path) -> list[bool]:
    """Which pages of the file are in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as area:
        marks = (ctypes.c_ubyte * (len(area) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(area)
        failed = _libc.mincore(ctypes.byref(start), ctypes.c_size_t(len(area)), marks)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
    return [bool(mark & 1) for mark in marks]


def drop_cached(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(cached_pages(path)):
        pytest.skip(f"{path.parent} lies in memory")


@pytest.fixture
def stored(restorer: Restorer, tmp_path: Path) -> Program:
    """`file_pages`, checkpointed, in a folder on a disk where there is one."""
    program = Program("file_pages", build("file_pages"), tmp_path)
    program.start()
    restorer.checkpoint(program.pid)
    program.reap()
    return program


def test_used_pages(restorer: Restorer, stored: Program) -> None:
    path = stored.workdir / "file"
    drop_cached(path)
    restored = restorer.restore("image")
    wait_until(lambda: all(cached_pages(path)[:USED]), "the pages that were used")
    assert not any(cached_pages(path)[PAGES // 2 :]), "pages were read that the program had not used"
    stored.go()
    assert stored.result(restored) == "ok\n"
    kill_all([restored.pid])


def test_a_file_that_has_shrunk(restorer: Restorer, stored: Program) -> None:
    """Advice for pages that are no longer there is harmless; the file's check tells."""
    path = stored.workdir / "file"
    os.truncate(path, mmap.PAGESIZE)
    assert str(path) in restorer.fails("restore", "image", "-d", code=125)
