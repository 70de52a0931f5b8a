# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process are captured: a child lays out known memory, and everything is read back."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from restorer import memory
from restorer.errors import ProcessError
from restorer.memory import MemorySummary
from restorer.model import Vma
from restorer.native import ffi, lib
from restorer.procfs import Process
from restorer.state import guards
from restorer.store import Store, open_store
from restorer.tracee import Tracee, seize
from restorer.wire import CHUNK_BYTES
from tests.unit.test_store import seal

PAGE = 4096
BASE = 0x200000000000
PROT_NONE = 0
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE_ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x4000, 0x100000
MADV_GUARD_INSTALL = 102
EAGER, WRITE = lib.WR_RECORD_EAGER, lib.WR_RECORD_WRITE

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

Windows = dict[int, tuple[int, dict[int, bytes]]]


def map_at(page: int, pages: int, prot: int = READ_WRITE, flags: int = PRIVATE_ANON, fd: int = -1) -> None:
    """Maps pages [page, page + pages) of the region at BASE."""
    addr = BASE + page * PAGE
    assert libc.mmap(addr, pages * PAGE, prot, flags | MAP_FIXED_NOREPLACE, fd, 0) == addr, ctypes.get_errno()


def put(page: int, data: bytes) -> None:
    ctypes.memmove(BASE + page * PAGE, data, len(data))


def touch(page: int) -> None:
    ctypes.string_at(BASE + page * PAGE, 1)


def call(name: str, page: int, pages: int, *args: int) -> None:
    addr, size = ctypes.c_void_p(BASE + page * PAGE), ctypes.c_size_t(pages * PAGE)
    assert getattr(libc, name)(addr, size, *args) == 0, os.strerror(ctypes.get_errno())


def content(page: int) -> bytes:
    return struct.pack("<Q", page + 1) * (PAGE // 8)


@contextmanager
def child(layout: Callable[[], None]) -> Iterator[int]:
    """A child process that has run `layout` and sleeps; killed at the end."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            layout()
            os.write(send, b"ready")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(send)
    try:
        assert os.read(receive, 5) == b"ready"
        yield pid
    finally:
        os.close(receive)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", create=True) as opened:
        yield opened


def region(tracee: Tracee) -> list[Vma]:
    return [vma for vma in tracee.process.vmas() if BASE <= vma.start < BASE + (1 << 40)]


def capture(
    store: Store, tracee: Tracee, vmas: list[Vma], eager: list[tuple[int, int]] | None = None
) -> tuple[Windows, MemorySummary]:
    with store.writer("demo", replace=True) as writer:
        walked = memory.capture(tracee, vmas, eager or [], writer)
        summary = memory.summarize(writer.image_id, walked, writer.finish_map())
        writer.commit(seal(writer.image_id, [summary]))
    windows: Windows = {}
    for chunk in store.records(summary.map_id, summary.map_check):
        data = store.chunk(chunk)
        places = [i for i in range(16) if chunk.mask >> i & 1]
        pages = {chunk.addr + place * PAGE: data[n * PAGE : (n + 1) * PAGE] for n, place in enumerate(places)}
        windows[chunk.addr] = chunk.flags, pages
    return windows, summary


def pages_of(windows: Windows) -> dict[int, bytes]:
    """By page number in the region."""
    return {(addr - BASE) // PAGE: data for _, (_, pages) in windows.items() for addr, data in pages.items()}


def flags_of(windows: Windows) -> dict[int, int]:
    return {(addr - BASE) // CHUNK_BYTES: flags for addr, (flags, _) in windows.items()}


def test_anonymous_memory(store: Store) -> None:
    def layout() -> None:
        map_at(3, 40)
        for page in (3, 4, 15, 16, 42):
            put(page, content(page))
        put(20, bytes(PAGE))
        touch(21)

    with child(layout) as pid, seize(pid) as tracee:
        before = Path(f"/proc/{pid}/statm").read_text()
        windows, summary = capture(store, tracee, region(tracee))
        assert Path(f"/proc/{pid}/statm").read_text() == before
    assert pages_of(windows) == {page: content(page) for page in (3, 4, 15, 16, 42)}
    assert flags_of(windows) == {0: 0, 1: 0, 2: 0}
    assert (summary.pages, summary.records_count, summary.zero_pages, summary.eager_pages) == (5, 3, 1, 0)
    assert store.verify().damages == []


def test_only_written_pages_of_a_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file" * (8 * PAGE // 4))

    def layout() -> None:
        fd = os.open(path, os.O_RDONLY)
        map_at(0, 8, READ_WRITE, mmap.MAP_PRIVATE, fd)
        for page in range(6):
            touch(page)
        put(1, content(1))
        put(2, bytes(PAGE))
        call("mprotect", 0, 8, mmap.PROT_READ)

    with child(layout) as pid, seize(pid) as tracee:
        windows, summary = capture(store, tracee, region(tracee))
    assert pages_of(windows) == {1: content(1), 2: bytes(PAGE)}
    assert flags_of(windows) == {0: EAGER | WRITE}
    assert summary.eager_pages == 2


def test_a_window_of_two_kinds_is_one_record(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file" * (20 * PAGE // 4))

    def layout() -> None:
        map_at(0, 20)
        map_at(20, 20, READ_WRITE, mmap.MAP_PRIVATE, os.open(path, os.O_RDONLY))
        for page in (2, 17, 19, 20, 38):
            put(page, content(page))

    with child(layout) as pid, seize(pid) as tracee:
        windows, _ = capture(store, tracee, region(tracee))
    assert pages_of(windows) == {page: content(page) for page in (2, 17, 19, 20, 38)}
    assert flags_of(windows) == {0: 0, 1: EAGER | WRITE, 2: EAGER | WRITE}


def test_protected_locked_shared_and_reserved_memory(store: Store) -> None:
    def layout() -> None:
        map_at(0, 16)
        put(5, content(5))
        call("mprotect", 0, 16, PROT_NONE)
        map_at(16, 16)
        put(17, content(17))
        call("mprotect", 16, 16, mmap.PROT_WRITE)
        map_at(32, 4)
        call("mlock", 32, 4)
        put(33, content(33))
        map_at(48, 16, READ_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        put(50, content(50))
        map_at(64, 1 << 24, READ_WRITE, PRIVATE_ANON | MAP_NORESERVE)
        put(64 + (1 << 23), content(99))

    with child(layout) as pid, seize(pid) as tracee:
        windows, _ = capture(store, tracee, region(tracee))
    assert pages_of(windows) == {page: content(page) for page in (5, 17, 33)} | {64 + (1 << 23): content(99)}
    assert flags_of(windows) == {0: 0, 1: 0, 2: EAGER, 4 + (1 << 19): 0}


def test_eager_ranges(store: Store) -> None:
    def layout() -> None:
        map_at(0, 128)
        for page in range(0, 128, 2):
            put(page, bytes(PAGE) if page == 34 else content(page))

    places = ((99, 1), (34, 8), (49, PAGE + 1))
    spans = [(page * PAGE + BASE, page * PAGE + BASE + size) for page, size in places]
    with child(layout) as pid, seize(pid) as tracee:
        windows, summary = capture(store, tracee, region(tracee), [*spans, (BASE, BASE)])
    # Page 34 holds zeros but must be there; 49 is absent, its span reaches into 50; 99 is absent.
    assert {window for window, flags in flags_of(windows).items() if flags} == {2, 3}
    assert pages_of(windows)[34] == bytes(PAGE)
    assert summary.eager_pages == 16


def test_guard_pages_hold_nothing(store: Store) -> None:
    def layout() -> None:
        map_at(0, 16)
        for page in (0, 3, 4):
            put(page, content(page))
        if libc.madvise(ctypes.c_void_p(BASE + 3 * PAGE), ctypes.c_size_t(PAGE), MADV_GUARD_INSTALL) != 0:
            put(0, b"unsupported")

    with child(layout) as pid, seize(pid) as tracee:
        if _has(pid, BASE, b"unsupported"):
            pytest.skip("this kernel has no MADV_GUARD_INSTALL")
        windows, _ = capture(store, tracee, region(tracee))
        assert pages_of(windows) == {page: content(page) for page in (0, 4)}
        found = guards.capture(tracee, region(tracee))
    assert found == ((BASE + 3 * PAGE, BASE + 4 * PAGE),)


def _has(pid: int, addr: int, data: bytes) -> bool:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        try:
            return os.pread(file.fileno(), len(data), addr) == data
        except OSError:
            return False


def oracle(pid: int, vmas: list[Vma]) -> dict[int, bytes]:
    """What has to be captured, by the plain reading of /proc/PID/pagemap and mem, page by page."""
    pages = {}
    with (
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as mem,
    ):
        for vma in vmas:
            if vma.shared or vma.special:
                continue
            entries = os.pread(pagemap.fileno(), vma.length // PAGE * 8, vma.start // PAGE * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry >> 62 and not entry >> 61 & 1:
                    data = os.pread(mem.fileno(), PAGE, vma.start + i * PAGE)
                    if vma.path or any(data):
                        pages[vma.start + i * PAGE] = data
    return pages


@pytest.mark.parametrize("batch_pages", [64, 101, 1024])
def test_a_whole_process(store: Store, monkeypatch: pytest.MonkeyPatch, batch_pages: int) -> None:
    monkeypatch.setattr(memory, "BATCH_PAGES", batch_pages)

    def layout() -> None:
        map_at(0, 3000)
        for page in range(0, 3000, 1):
            if page * 2654435761 >> 7 & 3:
                put(page, content(page) if page & 7 else bytes(PAGE))

    with child(layout) as pid, seize(pid) as tracee:
        vmas = tracee.process.vmas()
        expected = oracle(pid, vmas)
        windows, summary = capture(store, tracee, vmas)
    assert {addr: data for _, pages in windows.values() for addr, data in pages.items()} == expected
    assert summary.pages == len(expected) > 2000
    assert summary.raw_bytes == summary.pages * PAGE


@pytest.mark.parametrize("use", ["TR_SCAN_TRY", "TR_SCAN_PLAIN", "TR_SCAN_NONE"])
def test_kernels_without_pagemap_scan(use: str) -> None:
    def layout() -> None:
        map_at(0, 3000)
        for page in range(0, 3000, 3):
            put(page, content(page))

    with child(layout) as pid, seize(pid) as tracee:
        [vma] = region(tracee)
        found = {}
        with memory._walk(pid, [(vma.start, vma.end, 0, 0)], []) as walk:
            walk._pages.use_scan = getattr(lib, use)
            for buffer, windows in walk:
                for addr, offset, mask, _ in windows:
                    for n, place in enumerate(i for i in range(16) if mask >> i & 1):
                        data = buffer[offset + n * PAGE : offset + (n + 1) * PAGE]
                        found[(addr - BASE) // PAGE + place] = bytes(data)
    assert found == {page: content(page) for page in range(0, 3000, 3)}


def test_huge_pages(store: Store) -> None:
    def layout() -> None:
        map_at(0, 2048)
        call("madvise", 0, 2048, mmap.MADV_HUGEPAGE)
        put(700, content(700))
        put(1300, content(1300))

    with child(layout) as pid, seize(pid) as tracee:
        windows, _ = capture(store, tracee, region(tracee))
    assert pages_of(windows) == {page: content(page) for page in (700, 1300)}


def test_progress_ends_the_capture(store: Store) -> None:
    class StopError(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        raise StopError

    with (
        child(lambda: map_at(0, 1)) as pid,
        seize(pid) as tracee,
        pytest.raises(StopError),
        store.writer("demo") as writer,
    ):
        memory.capture(tracee, tracee.process.vmas(), [], writer, progress)
    assert 0 < seen[0][0] <= seen[0][1]
    assert store.refs() == {}


def test_a_process_that_has_ended(store: Store) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    tracee = Tracee(pid)
    with pytest.raises(ProcessError, match=f"{pid} has ended"), store.writer("demo") as writer:
        memory.capture(tracee, Process(os.getpid()).vmas(), [], writer)


def test_a_buffer_that_is_too_small() -> None:
    err = ffi.new("struct tr_error *")
    count = ffi.new("uint64_t *")
    assert lib.tr_pages_next(ffi.new("struct tr_pages *"), ffi.NULL, 63, ffi.NULL, count, err) == -1
    assert err.code == 22
