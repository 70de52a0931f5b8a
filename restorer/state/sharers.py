# SPDX-License-Identifier: Apache-2.0
"""Other processes that map or hold a file without a name: after a restore they would have another one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

from restorer.errors import Refused, RestorerError
from restorer.procfs import Process
from restorer.state import holders
from restorer.state.contents import Content, kind_of

# (device, inode, kind)
File: TypeAlias = tuple[int, int, str]


def check(pids: Collection[int], found: Iterable[Content]) -> None:
    """Raises Refused that names every one of `found` which another process than `pids` has, too."""
    by_file = {(one.dev, one.inode, one.kind): one for one in found}
    if not by_file:
        return
    shared: dict[Content, str] = {}
    for other, file in _others(pids, by_file):
        content = by_file.get(file)
        if content is not None:
            shared.setdefault(content, other)
    if shared:
        reasons = (f"{content} is shared with process {other}" for content, other in shared.items())
        raise Refused("; ".join(reasons), "end that process first")


def _others(pids: Collection[int], by_file: dict[File, Content]) -> Iterator[tuple[str, File]]:
    """The files without a name that others have, each with the process."""
    inodes = {inode for _, inode, _ in by_file}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (*pids, os.getpid()):
            for file in (*_mapped(int(entry), inodes), *_open(int(entry))):
                yield _describe(int(entry)), file


def _mapped(pid: int, inodes: set[int]) -> Iterator[File]:
    try:
        mapped = Process(pid).maps()
    except (RestorerError, OSError):
        return
    for vma in mapped:
        if vma.inode in inodes and kind_of(vma.path):
            yield os.makedev(*vma.dev), vma.inode, kind_of(vma.path)


def _open(pid: int) -> Iterator[File]:
    for number, link in holders.links(pid):
        if kind_of(link):
            try:
                status = os.stat(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            yield status.st_dev, status.st_ino, kind_of(link)


def _describe(pid: int) -> str:
    return str(holders.Holder(pid, holders.name(pid), 0)).removeprefix("process ")
