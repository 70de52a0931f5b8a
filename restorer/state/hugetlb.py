# SPDX-License-Identifier: Apache-2.0
"""Huge pages of hugetlbfs: of which size they are, which of them are there, and whether the pool has as many.

They come before resume. Each that was there is populated by madvise(2) before it is written to: where the
pool is empty that fails, and a store into the mapping would be a SIGBUS.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping

from restorer.model import Vma
from restorer.pagemap import private_runs
from restorer.program import Image
from restorer.record import dataclass
from restorer.state.descriptors import statfs
from restorer.syscalls import NR
from restorer.tracee import Tracee

FLAG = "ht"  # of a mapping, in VmFlags
MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB = 0x40000, 4, 0o4000

_HUGETLBFS_MAGIC = 0x958458F6
_SIZE_SHIFT = 26  # MAP_HUGE_SHIFT, MFD_HUGE_SHIFT and SHM_HUGE_SHIFT
_MADV_POPULATE_WRITE = 23
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Huge:
    """Of a mapping: the size of its pages, and (start, end) of those that are its own."""

    page_bytes: int
    populated: tuple[tuple[int, int], ...]


def page_bytes(path: str) -> int:
    """The size of the pages of the file that `path` leads to, 0 where it is on no hugetlbfs."""
    magic, block_bytes = statfs(path)
    return block_bytes if magic == _HUGETLBFS_MAGIC else 0


def capture(tracee: Tracee, vma: Vma) -> Huge:
    """Of a mapping that has such pages."""
    size = page_bytes(f"/proc/{tracee.pid}/map_files/{vma.start:x}-{vma.end:x}")
    own = () if vma.shared else tuple(private_runs(tracee.pid, vma.start, vma.end, size))
    return Huge(size, own)


def with_size(flag: int, page_bytes: int) -> int:
    """Flags that ask for pages of this size: one of the constants above and a logarithm."""
    return flag | (page_bytes.bit_length() - 1) << _SIZE_SHIFT


def extents(fd: int, page_bytes: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of what a file has pages for. hugetlbfs does not tell holes (default_llseek): where some
    are missing, those that hold something else than zeros count.
    """
    status = os.fstat(fd)
    if status.st_blocks * 512 >= status.st_size:
        return ((0, status.st_size),) if status.st_size else ()
    return tuple(
        (at, at + page_bytes)
        for at in range(0, status.st_size, page_bytes)
        if _holds_something(fd, at, at + page_bytes)
    )


def _holds_something(fd: int, start: int, end: int) -> bool:
    pieces = (os.pread(fd, _READ_BYTES, at) for at in range(start, end, _READ_BYTES))
    return any(piece.count(0) != len(piece) for piece in pieces)


def hint(page_bytes: int, pages: int = 0) -> str:
    """The way out when the pool of the machine is too small."""
    folder = f"/sys/kernel/mm/hugepages/hugepages-{page_bytes >> 10}kB"
    wanted = f"{pages} free ones are needed" if pages else "there are too few free ones"
    return f"{wanted} (free_hugepages in {folder}): raise nr_hugepages there"


def emit_populate(addr: int, found: Iterable[tuple[int, int]], image: Image) -> None:
    """Makes the pages at `found`, relative to `addr`, of a mapping that may be written to."""
    for start, end in found:
        image.main.syscall(NR.madvise, addr + start, end - start, _MADV_POPULATE_WRITE)


def emit_room(needed: Mapping[int, int], image: Image) -> None:
    """Before anything is made: as many pages of each size as are needed, reserved for a moment."""
    for size, pages in sorted(needed.items()):
        unit = f"{size >> 30} GiB" if size >> 30 else f"{size >> 20} MiB"
        with image.about(f"{pages} huge pages of {unit}", hint(size, pages)):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | with_size(MAP_HUGETLB, size)
            place = image.shared.call(NR.mmap, 0, pages * size, 0, flags, -1, 0)
            image.shared.syscall(NR.munmap, place, pages * size)
