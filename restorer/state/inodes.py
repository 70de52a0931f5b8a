# SPDX-License-Identifier: Apache-2.0
"""A path of an inode that the kernel names by file system and number only, as it does in fdinfo.

While something of the target pins the inode its number means it and nothing else. A file handle leads to it
at once, where the file system and our rights allow (open_by_handle_at(2): CAP_DAC_READ_SEARCH; neither
overlayfs nor procfs); otherwise folders are gone through.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import field
from typing import TypeAlias

from restorer.record import dataclass

# Going through folders may take so long, while the target is held.
_WALK_S = 1.0
_O_PATH_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD = -100
_MINOR_BITS = 20
_OCTAL = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Inode:
    """`dev` is the device number of the super block as the kernel has it (include/linux/kdev_t.h), which for
    btrfs is not that of stat(2). `handle` is its struct file_handle, b"" for none.
    """

    dev: int
    number: int
    handle: bytes = field(default=b"", compare=False)

    @property
    def device(self) -> str:
        """The device number in words."""
        return f"{self.dev >> _MINOR_BITS}:{self.dev & ((1 << _MINOR_BITS) - 1)}"


@dataclass(frozen=True)
class _Mount:
    id: int
    dev: int
    point: str


# What is still to come, and by number what has come.
_Walk: TypeAlias = tuple[Iterator["os.DirEntry[str]"], dict[int, list[str]]]


class Finder:
    """Finds paths in our mount namespace, whose mounts are read once. `hints` are paths to try first."""

    def __init__(self, hints: Iterable[str] = ()) -> None:
        self._hints = tuple(dict.fromkeys(hints))
        self._mounts = list(_read_mounts())
        self._dev_of = {mount.id: mount.dev for mount in self._mounts}
        self._walks: dict[int, _Walk] = {}

    def path(self, inode: Inode) -> str:
        """An absolute path that leads to it now, "" when there is none or it was not found."""
        opened = list(self._by_handle(inode))
        for path in (*opened, *self._points(inode.dev), *self._hints):
            if self.leads_to(path, inode):
                return path
        if any(path.endswith(" (deleted)") for path in opened):
            return ""
        return next((path for path in self._walked(inode) if self.leads_to(path, inode)), "")

    def leads_to(self, path: str, inode: Inode, *, follow: bool = False) -> bool:
        """Whether `path`, its last part not followed unless `follow`, is that inode."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        except (OSError, ValueError):
            return False
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                info = dict(line.split(":", 1) for line in file)
            found = self._dev_of.get(int(info["mnt_id"])), int(info["ino"])
        finally:
            os.close(fd)
        return found == (inode.dev, inode.number)

    def _by_handle(self, inode: Inode) -> Iterator[str]:
        for mount in self._mounts if inode.handle else ():
            if mount.dev == inode.dev:
                with suppress(OSError):
                    yield _open_by_handle(mount.point, inode.handle)

    def _walked(self, inode: Inode) -> Iterator[str]:
        """Paths with its number, of those that were come by and of as many more as it takes."""
        everywhere = frozenset(mount.point for mount in self._mounts)
        fresh = _walk(self._points(inode.dev), everywhere), defaultdict[int, list[str]](list)
        walk, seen = self._walks.setdefault(inode.dev, fresh)
        yield from seen[inode.number]
        for entry in walk:
            seen[entry.inode()].append(entry.path)
            if entry.inode() == inode.number:
                yield entry.path

    def _points(self, dev: int) -> list[str]:
        return [mount.point for mount in self._mounts if mount.dev == dev]


def _read_mounts() -> Iterator[_Mount]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            number, _, device, _, point, *_ = line.split(" ")
            major, _, minor = device.partition(":")
            path = _OCTAL.sub(lambda match: chr(int(match[1], 8)), point)
            yield _Mount(int(number), int(major) << _MINOR_BITS | int(minor), path)


def _open_by_handle(mount_point: str, handle: bytes) -> str:
    # From the working directory: an fd of the mount would have to be opened for reading, which is an event
    # for whoever watches it, the target perhaps.
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(mount_point)
        fd = _libc.open_by_handle_at(_AT_FDCWD, handle, _O_PATH_ITSELF)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    finally:
        os.fchdir(before)
        os.close(before)


def _walk(roots: list[str], points: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    """What lies below `roots` in the same file systems, nearest first, as far as _WALK_S lets it come."""
    folders, deadline = list(roots), time.monotonic() + _WALK_S
    while folders:
        below: list[str] = []
        for folder in folders:
            if time.monotonic() > deadline:
                return
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False) and entry.path not in points:
                        below.append(entry.path)
        folders = below
