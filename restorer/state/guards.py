# SPDX-License-Identifier: Apache-2.0
"""Guard regions (MADV_GUARD_INSTALL, Linux 6.13): pages whose touch is SIGSEGV, with no mapping of their own.

They lie in the page tables, beside pages with content, so they are installed in the empty mapping before its
pages come. They are in the way of none: a guarded page has no content.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from collections.abc import Iterator, Sequence

from restorer import wire
from restorer.errors import Refused
from restorer.model import Vma
from restorer.program import Image
from restorer.syscalls import NR
from restorer.tracee import Tracee

_MADV_GUARD_INSTALL = 102
# linux/fs.h: struct pm_scan_arg is twelve u64, struct page_region three
_PAGEMAP_SCAN, _PAGE_IS_GUARD = 0xC0606610, 1 << 8
_SCAN, _REGION, _WALK_END_AT = struct.Struct("<12Q"), struct.Struct("<3Q"), 32
_REGIONS = 512


def capture(tracee: Tracee, vmas: Sequence[Vma]) -> tuple[tuple[int, int], ...]:
    """(start, end) of each, none across two mappings. Raises Refused where they could not be installed
    again.
    """
    guards = list(_scan(tracee))
    found: list[tuple[int, int]] = []
    for vma in vmas:
        own = [(max(start, vma.start), min(end, vma.end)) for start, end in guards]
        own = [(start, end) for start, end in own if start < end]
        if own and "lo" in vma.flags:
            raise Refused(f"memory at {vma} is locked and has guard pages", "unlock it first")
        found += own
    return tuple(found)


def _scan(tracee: Tracee) -> Iterator[tuple[int, int]]:
    end = max((vma.end for vma in tracee.vmas if vma.end <= wire.TASK_SIZE), default=0)
    at, room = 0, ctypes.create_string_buffer(_REGION.size * _REGIONS)
    with open(f"{tracee.process.folder}/pagemap", "rb", buffering=0) as pagemap:
        while at < end:
            regions = ctypes.addressof(room), _REGIONS
            guard = _PAGE_IS_GUARD
            arg = bytearray(_SCAN.pack(_SCAN.size, 0, at, end, 0, *regions, 0, 0, guard, 0, guard))
            try:
                count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, arg)
            except OSError as error:
                # A kernel that does not tell of them, though it may have them (6.13 and 6.14).
                if error.errno in (errno.EINVAL, errno.ENOTTY):
                    return
                raise
            for start, stop, _ in _REGION.iter_unpack(room.raw[: count * _REGION.size]):
                yield start, stop
            (at,) = struct.unpack_from("<Q", arg, _WALK_END_AT)


def emit(guards: Sequence[tuple[int, int]], image: Image) -> None:
    """Once everything is mapped, and before anything is locked or sealed."""
    for start, end in guards:
        with image.about(f"guard pages at {start:#x}"):
            image.main.syscall(NR.madvise, start, end - start, _MADV_GUARD_INSTALL)
