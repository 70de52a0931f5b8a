# SPDX-License-Identifier: Apache-2.0
"""Which pages of a frozen process an image holds, and how they get into the store.

Private anonymous memory: every page that is there and is not all zeros. Private file mappings: the pages that
have been written to, zeros or not, since the file holds the rest. Shared mappings and the kernel's own: none.
No page of the target is faulted in.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from restorer import native
from restorer.errors import ProcessError, Refused
from restorer.model import HUGE_ANONYMOUS, Vma
from restorer.native import ffi, lib
from restorer.record import dataclass
from restorer.store import MapSummary
from restorer.tracee import Tracee
from restorer.wire import PAGE_BYTES, TASK_SIZE

__all__ = ["Carried", "MemorySummary", "Progress", "Sink", "Walked", "capture", "summarize"]

BATCH_PAGES = 1024
EHWPOISON = 133
_UNREADABLE = {errno.EFAULT, errno.EIO, EHWPOISON}

Progress = Callable[[int, int], None]
Carried = tuple[int, int, int, bytes]
_Range = tuple[int, int, int, int]
_Span = tuple[int, int]


@dataclass(frozen=True)
class Walked:
    """What `capture` saw beside the chunks it has handed on."""

    zero_pages: int
    eager_pages: int


@dataclass(frozen=True)
class MemorySummary(MapSummary):
    """What of a process's memory is stored, in which image."""

    image_id: int
    zero_pages: int
    eager_pages: int


class Sink(Protocol):
    """Who takes chunks, as an ImageWriter does."""

    def add(self, addr: int, mask: int, flags: int, pages: bytes | bytearray | memoryview) -> None:
        """ImageWriter.add."""


def summarize(image_id: int, walked: Walked, stored: MapSummary) -> MemorySummary:
    """Of an address space whose page index is finished."""
    return MemorySummary(image_id=image_id, **asdict(walked), **asdict(stored))


def capture(
    tracee: Tracee,
    vmas: Sequence[Vma],
    eager: Sequence[tuple[int, int]],
    sink: Sink,
    progress: Progress | None = None,
    carried: Iterable[Carried] = (),
) -> Walked:
    """Hands the memory of a frozen process to `sink`.

    `carried` are (address, flags, mask, pages) by address: of mappings that the target itself does not have.
    `eager` are address ranges (`end` exclusive, in any order) that must be in place before resume. `progress`
    is called with the bytes done and an estimate of all of them; what it raises ends the capture. Raises
    Refused for memory that no image can hold, ProcessError, StoreFull, StoreDamaged.
    """
    pid = tracee.pid
    total_bytes = _resident_bytes(pid) if progress else 0
    done_bytes = eager_pages = 0
    others = _Carried(carried, sink)
    with _walk(pid, _ranges(vmas), _merged(eager)) as walk:
        for buffer, windows in walk:
            for addr, offset, mask, flags in windows:
                others.add_below(addr)
                size = mask.bit_count() * PAGE_BYTES
                sink.add(addr, mask, flags, buffer[offset : offset + size])
                done_bytes += size
                eager_pages += mask.bit_count() if flags & lib.WR_RECORD_EAGER else 0
            if progress:
                progress(done_bytes, max(done_bytes, total_bytes))
        zero_pages = walk.zero_pages
    others.add_below(TASK_SIZE)
    return Walked(zero_pages, eager_pages + others.eager_pages)


class _Carried:
    """Feeds what is carried along to the sink in its place among the windows of the walk."""

    def __init__(self, windows: Iterable[Carried], sink: Sink) -> None:
        self._windows = iter(windows)
        self._sink = sink
        self._next = next(self._windows, None)
        self.eager_pages = 0

    def add_below(self, end: int) -> None:
        """All that lie below address `end`."""
        while self._next is not None and self._next[0] < end:
            addr, flags, mask, pages = self._next
            self._sink.add(addr, mask, flags, pages)
            self.eager_pages += mask.bit_count() if flags & lib.WR_RECORD_EAGER else 0
            self._next = next(self._windows, None)


def _ranges(vmas: Sequence[Vma]) -> list[_Range]:
    """struct tr_range of the VMAs that may have pages of their own, neighbours of one kind merged."""
    ranges: list[_Range] = []
    for vma in sorted(vmas, key=lambda vma: vma.start):
        if vma.shared or vma.special:
            continue
        flags = lib.TR_RANGE_FILE if vma.path else 0
        if vma.path == HUGE_ANONYMOUS:
            flags = lib.TR_RANGE_WRITE
        if "lo" in vma.flags:
            flags |= lib.TR_RANGE_EAGER
        if ranges and ranges[-1][1] == vma.start and ranges[-1][2] == flags:
            ranges[-1] = (ranges[-1][0], vma.end, flags, 0)
        else:
            ranges.append((vma.start, vma.end, flags, 0))
    return ranges


def _merged(spans: Sequence[_Span]) -> list[_Span]:
    """Sorted and disjoint, empty ones left out."""
    merged: list[_Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _resident_bytes(pid: int) -> int:
    with _gone(pid), open(f"/proc/{pid}/statm", encoding="ascii") as file:
        _, resident, shared = (int(field) for field in file.read().split()[:3])
    return (resident - shared) * PAGE_BYTES


@contextmanager
def _gone(pid: int) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessError(f"process {pid} has ended") from None


class _Walk:
    """Iterates over batches: a view of the packed pages, valid until the next one, and (address, offset,
    mask, flags) of each window in it.
    """

    def __init__(self, pid: int, fds: tuple[int, int], ranges: Sequence[_Range], eager: Sequence[_Span]):
        self._pid = pid
        self._arrays = ffi.new("struct tr_range[]", ranges), ffi.new("struct tr_span[]", eager)
        self._pages = ffi.new(
            "struct tr_pages *",
            {
                "pid": pid,
                "pagemap_fd": fds[0],
                "mem_fd": fds[1],
                "ranges": self._arrays[0],
                "ranges_count": len(ranges),
                "eager": self._arrays[1],
                "eager_count": len(eager),
            },
        )

    @property
    def zero_pages(self) -> int:
        """Left out so far for being all zeros."""
        return int(self._pages.zero_pages)

    def __iter__(self) -> Iterator[tuple[memoryview, list[tuple[int, int, int, int]]]]:
        memory = ffi.new("uint8_t[]", BATCH_PAGES * PAGE_BYTES)
        buffer = memoryview(ffi.buffer(memory))
        windows = ffi.new("struct tr_window[]", BATCH_PAGES)
        count = ffi.new("uint64_t *")
        err = native.new_error()
        while True:
            if lib.tr_pages_next(self._pages, memory, BATCH_PAGES, windows, count, err) < 0:
                self._raise(err)
            if not count[0]:
                return
            yield buffer, [(w.addr, w.offset, w.mask, w.flags) for w in windows[0 : count[0]]]

    def _raise(self, err: Any) -> None:
        call = ffi.string(err.call).decode()
        if call == "read of /proc/PID/mem" and err.code in _UNREADABLE:
            raise Refused(f"memory at {err.object:#x} of process {self._pid}: {os.strerror(err.code)}")
        native.check(-1, err)


@contextmanager
def _walk(pid: int, ranges: Sequence[_Range], eager: Sequence[_Span]) -> Iterator[_Walk]:
    with (
        _gone(pid),
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as mem,
    ):
        yield _Walk(pid, (pagemap.fileno(), mem.fileno()), ranges, eager)
