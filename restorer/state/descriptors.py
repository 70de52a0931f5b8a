# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about one fd of the target, read once and handed to the modules of its kind."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Protocol

from restorer.errors import ProcessError, Refused
from restorer.record import dataclass
from restorer.state import othernames

KEPT_FLAGS = ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_ASYNC)
KCMP_FILE = 0
PATH_MAX_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class Source(Protocol):
    """Where fds come from: a tracee, or this process for what is in flight."""

    @property
    def pid(self) -> int:
        """The process, as seen from here."""

    def getfd(self, fd: int) -> int:
        """A duplicate, for the caller to close."""


@dataclass(frozen=True)
class Descriptor:
    """One open fd: /proc/PID/fd/N and /proc/PID/fdinfo/N."""

    pid: int
    number: int
    link: str
    flags: int
    pos: int
    stat: os.stat_result
    info: dict[str, str] = field(hash=False)
    lines: tuple[str, ...]
    carrier: int | None = None

    @property
    def in_flight(self) -> bool:
        """Not an fd of the target but of this process: a copy of what is in the queue of its fd `carrier`."""
        return self.carrier is not None

    @property
    def cloexec(self) -> bool:
        """Closed by exec."""
        return bool(self.flags & os.O_CLOEXEC)

    @property
    def kept_flags(self) -> int:
        """The flags of the description that an open restores."""
        return self.flags & KEPT_FLAGS

    @property
    def access(self) -> int:
        """O_RDONLY, O_WRONLY, O_RDWR or 3."""
        return self.flags & os.O_ACCMODE

    @property
    def is_fifo(self) -> bool:
        """A pipe, with or without a name."""
        return stat.S_ISFIFO(self.stat.st_mode)

    @property
    def is_anonymous(self) -> bool:
        """The link is a label such as `pipe:[7]` or `anon_inode:[eventfd]`, not a path."""
        return not self.link.startswith("/")

    def refused(self, why: str, hint: str = "") -> Refused:
        """The exception that names this fd."""
        place = f"in flight to fd {self.carrier}" if self.in_flight else f"fd {self.number}"
        return Refused(f"{place}: {why}", hint)


def read(pid: int, number: int) -> Descriptor:
    """Reads one fd. Raises ProcessError when the process or the fd has gone."""
    try:
        link = os.readlink(f"/proc/{pid}/fd/{number}")
        status = os.stat(f"/proc/{pid}/fd/{number}")
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="utf-8", errors="surrogateescape") as file:
            lines = tuple(file.read().splitlines())
    except FileNotFoundError:
        raise ProcessError(f"process {pid} has ended, or its fd {number} was closed") from None
    info: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    link = othernames.find(link, status) or link
    return Descriptor(pid, number, link, int(info["flags"], 8), int(info["pos"]), status, info, lines)


def filesystem_magic(descriptor: Descriptor) -> int:
    """Which file system it is of: f_type of statfs(2), 0 where that fails."""
    return statfs(f"/proc/{descriptor.pid}/fd/{descriptor.number}")[0]


def statfs(path: str) -> tuple[int, int]:
    """f_type and f_bsize of statfs(2), zeros where that fails."""
    buffer = (ctypes.c_long * 32)()
    failed = _libc.statfs(os.fsencode(path), buffer)
    return (0, 0) if failed else (buffer[0], buffer[1])


@contextmanager
def copied(tracee: Source, number: int) -> Iterator[int]:
    """A duplicate of the target's fd in this process, for questions only its holder may ask."""
    copy = tracee.getfd(number)
    try:
        yield copy
    finally:
        os.close(copy)


def path_of(descriptor: Descriptor) -> str:
    """The path that leads to the open file, checked. Raises Refused when none does."""
    path = descriptor.link
    try:
        status = os.lstat(path)
    except OSError:
        status = None
    if status is not None and os.path.samestat(status, descriptor.stat):
        return path
    if path.endswith(" (deleted)") or descriptor.stat.st_nlink == 0:
        name = path.removesuffix(" (deleted)")
        raise descriptor.refused(
            f"{name} has been deleted", "only files that still have a name can be reopened"
        )
    raise descriptor.refused(
        f"{path} is not the open file any more", "it was replaced, or is hidden by a mount"
    )
