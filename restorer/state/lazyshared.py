# SPDX-License-Identifier: Apache-2.0
"""Shared memory that comes lazily: which, where its pages go, and who sees which part of it.

A page that has not come yet is missing in the page cache, for all who map it; userfaultfd makes those wait
who touch it in a mapping that is registered. Whoever reads the file in another way gets zeros. So only
memory that nobody can get at in another way is lazy: anonymous, or a memfd of which the tree has no
descriptor. Never System V segments, which anybody may attach at any time.

Each process that maps such memory has a window on all of it until it is loaded. Its pages are in the page
index of the first process of the tree, whoever maps it, by the address of the window, which is the same for
all.
"""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from restorer import holes
from restorer.procfs import INFINITY
from restorer.program import Image, Segment
from restorer.record import dataclass
from restorer.state import contents
from restorer.state.contents import Content, Contents
from restorer.state.rlimits import Rlimits
from restorer.state.vmas import Mapping, Vmas
from restorer.syscalls import NR
from restorer.wire import CHUNK_BYTES, RecordFlag, SegmentFlag

if TYPE_CHECKING:
    from restorer.memory import Carried

# Less than this is there sooner than it takes to make it lazy.
LAZY_MIN_BYTES = 1 << 20
_F_SEAL_WRITE, _F_SEAL_FUTURE_WRITE = 8, 16
_MADV_DONTFORK = 10
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

_Span = tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """What one process has to do with such memory: its mappings, what it has descriptors of, its limits."""

    memory: Vmas
    opened: frozenset[Content]
    rlimits: Rlimits
    eager: tuple[_Span, ...]


@dataclass(frozen=True)
class Lazy:
    """All of a tree, each with its window; `urgent` are parts of windows that must be there before resume."""

    files: tuple[tuple[Content, int], ...] = ()
    urgent: tuple[_Span, ...] = ()


def choose(tree: Sequence[Candidate], used: Sequence[_Span]) -> Lazy:
    """What can come lazily, with windows outside of the ranges that any process of the tree uses."""
    found = dict.fromkeys(content for one in tree for content in _contents(one.memory))
    barred = {content for one in tree for content in _barred(one)}
    lazy = [one for one in found if one not in barred and _size_bytes(one) >= LAZY_MIN_BYTES]
    starts = holes.deep_windows(used, [one.mapped_bytes for one in lazy])
    files = tuple(zip(lazy, starts, strict=False))
    return Lazy(files, tuple(span for one in tree for span in _urgent(one, dict(files))))


def _contents(memory: Vmas) -> Iterator[Content]:
    return (mapping.content for mapping in memory.mappings if mapping.content is not None)


def _size_bytes(content: Content) -> int:
    return sum(end - start for start, end in content.extents)


def _barred(one: Candidate) -> Iterator[Content]:
    yield from one.opened
    # The window counts too, and what the program maps meanwhile must not fail for it.
    limited = one.rlimits.limits[resource.RLIMIT_AS].soft != INFINITY
    for mapping in one.memory.mappings:
        if mapping.content is not None and (limited or not _can_be_lazy(mapping, mapping.content)):
            yield mapping.content


def _can_be_lazy(mapping: Mapping, content: Content) -> bool:
    """Only what may be written can be registered (userfaultfd_register); a private mapping would show pages
    of the file which have not come as zeros of its own; what is locked must be there.
    """
    return (
        content.kind in (contents.SHARED, contents.MEMFD)
        and mapping.vma.shared
        and "mw" in mapping.vma.flags
        and not mapping.locked
        and not content.huge_bytes
        and not content.seals & (_F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE)
    )


def _views(memory: Vmas, windows: dict[Content, int]) -> Iterator[tuple[Mapping, int]]:
    """Mappings of lazy memory, with the address in the window of what each begins with."""
    for mapping in memory.mappings:
        if mapping.content is not None and mapping.content in windows:
            yield mapping, windows[mapping.content] + mapping.vma.offset


def _urgent(one: Candidate, windows: dict[Content, int]) -> Iterator[_Span]:
    for mapping, image in _views(one.memory, windows):
        for start, end in one.eager:
            low, high = max(start, mapping.vma.start), min(end, mapping.vma.end)
            if low < high:
                yield image + low - mapping.vma.start, image + high - mapping.vma.start


def carried(state: Contents, lazy: Lazy) -> Iterator[Carried]:
    """The chunks of what a process brings before resume and, for the first one, of all that is lazy; by
    address.
    """
    windows = dict(lazy.files)
    for addr, mask, pages in contents.chunks((*state.eager, *lazy.files)):
        yield addr, _flags(addr, windows, lazy.urgent), mask, pages


def _flags(addr: int, windows: dict[Content, int], urgent: Sequence[_Span]) -> RecordFlag:
    if not any(start <= addr < start + content.mapped_bytes for content, start in windows.items()):
        return RecordFlag.EAGER | RecordFlag.WRITE
    if any(start < addr + CHUNK_BYTES and addr < end for start, end in urgent):
        return RecordFlag.SHARED | RecordFlag.EAGER
    return RecordFlag.SHARED


def segments(memory: Vmas, state: Contents) -> tuple[Segment, ...]:
    """Windows and views as the pager must know them."""
    windows = dict(state.lazy)
    return (
        *(
            Segment(start, start + content.mapped_bytes, SegmentFlag.WINDOW, _READ_WRITE)
            for content, start in state.lazy
        ),
        *(
            Segment(mapping.vma.start, mapping.vma.end, SegmentFlag.SHARED, mapping.vma.prot, image)
            for mapping, image in _views(memory, windows)
        ),
    )


def emit_hide(state: Contents, image: Image) -> None:
    """Keeps the windows out of forked children: after the views, which are made out of them."""
    for content, start in state.lazy:
        with image.about(str(content)):
            image.main.syscall(NR.madvise, start, content.mapped_bytes, _MADV_DONTFORK)
