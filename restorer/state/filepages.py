# SPDX-License-Identifier: Apache-2.0
"""The pages of mapped files that a program was using, code above all: the launcher has them read ahead, so
that with a cold page cache not each of them is waited for, with all that lies around it. It is advice:
nothing depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from restorer import pagemap
from restorer.model import Vma
from restorer.program import ANY, Image
from restorer.state import mapped_files
from restorer.state.mapped_files import MappedFile
from restorer.syscalls import NR

# (offset, end) in the file
Run = tuple[int, int]

_PAGE_BYTES = 4096
# The kernel cuts a call off where a device's readahead ends (force_page_cache_ra in mm/readahead.c).
_PIECE_BYTES = 128 << 10
# Rather read than asked for apart.
_GAP_BYTES = 64 << 10
_BYTES_MAX = 64 << 20


def capture(pid: int, vma: Vma) -> tuple[Run, ...]:
    """What of its file a mapping has in its page tables. Shared ones show data, which may be much and not
    needed soon: nothing of these.
    """
    if vma.shared:
        return ()
    shift = vma.offset - vma.start
    runs = pagemap.scan(pid, vma.start, vma.end, pagemap.IS_PRESENT)
    return tuple(_merged((start + shift, end + shift) for start, end in runs))


def emit(used: Iterable[tuple[MappedFile, tuple[Run, ...]]], image: Image) -> None:
    """Has the launcher open these files and ask for what is used of them, unless it is there already. Of a
    file that several processes use, what the first of them uses.
    """
    files: dict[MappedFile, list[Run]] = {}
    for file, runs in used:
        if file.carried is None and file not in image.opened:
            files.setdefault(file, []).extend(runs)
    left_bytes = _BYTES_MAX
    for file, found in files.items():
        wanted = list(_merged(sorted(found)))
        left_bytes -= sum(end - offset for offset, end in wanted)
        if wanted and left_bytes >= 0:
            _emit_one(file, wanted, image)


def _emit_one(file: MappedFile, runs: list[Run], image: Image) -> None:
    program, fd = image.shared, mapped_files.emit_open(file, image)
    iovec = image.reserve(16)
    program.store(iovec, image.reserve(1))
    program.store(iovec + 8, 1)
    # One page tells of all: the last one, since the beginning of the file has just been looked at.
    probe = runs[-1][1] - _PAGE_BYTES
    program.syscall(NR.preadv2, fd, iovec, 1, probe, 0, os.RWF_NOWAIT, result=image.spare, expect=ANY)
    with program.unless_eq(image.spare, 1):
        for offset, size in _pieces(runs):
            program.syscall(NR.fadvise64, fd, offset, size, os.POSIX_FADV_WILLNEED, expect=ANY)


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs in order, those close to each other in one."""
    begin = stop = -1
    for start, end in runs:
        if stop >= 0 and start - stop < _GAP_BYTES:
            stop = max(stop, end)
            continue
        if stop >= 0:
            yield begin, stop
        begin, stop = start, end
    if stop >= 0:
        yield begin, stop


def _pieces(runs: list[Run]) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each call."""
    for start, end in runs:
        for offset in range(start, end, _PIECE_BYTES):
            yield offset, min(_PIECE_BYTES, end - offset)
