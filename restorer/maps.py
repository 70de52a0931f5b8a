# SPDX-License-Identifier: Apache-2.0
"""Reads the text of /proc/PID/maps and smaps."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import replace

from restorer.errors import PrivilegeError, ProcessError
from restorer.model import Vma

__all__ = ["parse_maps"]

_HEX = b"0123456789abcdef"
_PROT = ((b"r", mmap.PROT_READ), (b"w", mmap.PROT_WRITE), (b"x", mmap.PROT_EXEC))


def parse_maps(text: bytes, map_file: Callable[[int, int], str] | None = None) -> list[Vma]:
    r"""The mappings of a maps or smaps file, in its order.

    `map_file(start, end)` gives the exact path of a mapping; it is asked where the text is ambiguous: the
    kernel writes a newline in a path as \012 but leaves backslashes as they are. Without it, or when it
    raises PrivilegeError or ProcessError, the escape is undone.
    """
    vmas: list[Vma] = []
    for line in text.split(b"\n"):
        if line and line[0] in _HEX:
            vmas.append(_mapping(line, map_file))
        elif line.startswith(b"VmFlags:"):
            vmas[-1] = replace(vmas[-1], flags=frozenset(line[8:].decode().split()))
        elif line.startswith(b"ProtectionKey:"):
            vmas[-1] = replace(vmas[-1], pkey=int(line[14:]))
    return vmas


def _mapping(line: bytes, map_file: Callable[[int, int], str] | None) -> Vma:
    fields = line.split(None, 5)
    start, end = (int(word, 16) for word in fields[0].split(b"-"))
    major, minor = (int(word, 16) for word in fields[3].split(b":"))
    what = fields[5] if len(fields) > 5 else b""
    named = what.startswith(b"[")
    return Vma(
        start=start,
        end=end,
        prot=sum(bit for letter, bit in _PROT if letter in fields[1]),
        shared=fields[1].endswith(b"s"),
        offset=int(fields[2], 16),
        dev=(major, minor),
        inode=int(fields[4]),
        path="" if named else _path(what, start, end, map_file),
        name=os.fsdecode(what) if named else "",
    )


def _path(what: bytes, start: int, end: int, map_file: Callable[[int, int], str] | None) -> str:
    if b"\\012" not in what:
        return os.fsdecode(what)
    try:
        if map_file is not None:
            return map_file(start, end)
    except (PrivilegeError, ProcessError):
        # map_files wants CAP_CHECKPOINT_RESTORE, and has no link for a mapping of something that is no file.
        pass
    return os.fsdecode(what.replace(b"\\012", b"\n"))
