# SPDX-License-Identifier: Apache-2.0
"""/proc/PID/pagemap: which pages a process has, of a kind or of its own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from restorer.errors import ProcessError

PAGE_BYTES = 4096
_ENTRY = struct.Struct("<Q")
# Documentation/admin-guide/mm/pagemap.rst: 63 present, 62 swapped, 61 page of a file or shared anonymous
_PRESENT_OR_SWAPPED = 3 << 62
_OF_FILE = 1 << 61
_BATCH_BYTES = 1 << 20
# linux/fs.h: struct pm_scan_arg is twelve u64, struct page_region three
_PAGEMAP_SCAN = 0xC0606610
_SCAN, _REGION, _WALK_END_AT = struct.Struct("<12Q"), struct.Struct("<3Q"), 32
_REGIONS = 512
IS_PRESENT, IS_GUARD = 1 << 3, 1 << 8


def scan(pid: int, start: int, end: int, category: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of pages of this category in [start, end). None where the kernel has no
    PAGEMAP_SCAN (before Linux 6.7), or does not know the category.
    """
    room = ctypes.create_string_buffer(_REGION.size * _REGIONS)
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            while start < end:
                regions = ctypes.addressof(room), _REGIONS
                arg = bytearray(
                    _SCAN.pack(_SCAN.size, 0, start, end, 0, *regions, 0, 0, category, 0, category)
                )
                try:
                    count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, arg)
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ENOTTY):
                        return
                    raise
                for run in _REGION.iter_unpack(room.raw[: count * _REGION.size]):
                    yield run[0], run[1]
                (start,) = struct.unpack_from("<Q", arg, _WALK_END_AT)
    except FileNotFoundError:
        raise ProcessError(f"process {pid} has ended") from None


def _is_private(entry: int) -> bool:
    return bool(entry & _PRESENT_OR_SWAPPED) and not entry & _OF_FILE


def has_private_pages(pid: int, start: int, end: int) -> bool:
    """Whether a private file mapping [start, end) has been written to: some page of it is not the file's."""
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            at, stop = (addr // PAGE_BYTES * _ENTRY.size for addr in (start, end))
            while at < stop:
                batch = os.pread(pagemap.fileno(), min(_BATCH_BYTES, stop - at), at)
                if not batch:
                    return False
                if any(_is_private(entry) for (entry,) in _ENTRY.iter_unpack(batch)):
                    return True
                at += len(batch)
    except FileNotFoundError:
        raise ProcessError(f"process {pid} has ended") from None
    return False


def private_runs(pid: int, start: int, end: int, page_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the runs of pages, `page_bytes` large, of a private mapping that are its own."""
    begin = at = start
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            for at in range(start, end, page_bytes):
                raw = os.pread(pagemap.fileno(), _ENTRY.size, at // PAGE_BYTES * _ENTRY.size)
                (entry,) = _ENTRY.unpack(raw)
                if not _is_private(entry):
                    if begin < at:
                        yield begin, at
                    begin = at + page_bytes
    except FileNotFoundError:
        raise ProcessError(f"process {pid} has ended") from None
    if begin < end:
        yield begin, end
