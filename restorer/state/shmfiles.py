# SPDX-License-Identifier: Apache-2.0
"""Shared memory that has a name: what shm_open(3) and sem_open(3) make, files directly in /dev/shm.

A file elsewhere is the world's, and comes back as it is then. These are memory: what a program finds there
must be what it has left there, also when it went on meanwhile (-R), when it is restored a second time, or
after a boot. So their bytes travel in the image, unless somebody outside of the tree has them too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from restorer.errors import RestorerError
from restorer.model import Vma
from restorer.procfs import Process
from restorer.program import ANY, Image, Slot, ok_or
from restorer.state import holders
from restorer.state.descriptors import statfs
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

_FOLDER = "/dev/shm"
_TMPFS_MAGIC = 0x01021994
_NONE = (1 << 64) - errno.EEXIST

# (device, inode)
Id: TypeAlias = tuple[int, int]


def find(tracees: Sequence[Tracee]) -> frozenset[Id]:
    """Those that belong to the tree alone."""
    found: dict[Id, str] = {}
    for tracee in tracees:
        for vma in tracee.vmas:
            if vma.shared and "mw" in vma.flags and os.path.dirname(vma.path) == _FOLDER:
                source = source_of(tracee.pid, vma)
                with suppress(OSError):
                    status = os.stat(source)
                    if status.st_nlink and statfs(source)[0] == _TMPFS_MAGIC:
                        found[status.st_dev, status.st_ino] = vma.path
    return frozenset(found.keys() - _outside({tracee.pid for tracee in tracees}, found))


def source_of(pid: int, vma: Vma) -> str:
    """A link that leads to the mapped file."""
    return f"/proc/{pid}/map_files/{vma.start:x}-{vma.end:x}"


def _outside(pids: Collection[int], found: dict[Id, str]) -> set[Id]:
    """Those that processes outside of the tree have, open or mapped."""
    names = {_name(path) for path in found.values()}
    others = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    each = [pid for pid in others if pid not in (*pids, os.getpid())] if found else []
    return {one for pid in each for one in _had_by(pid, names)}


def _had_by(pid: int, names: Collection[str]) -> Iterator[Id]:
    with suppress(RestorerError, OSError):
        for vma in Process(pid).maps():
            if _name(vma.path) in names:
                yield os.makedev(*vma.dev), vma.inode
    for number, link in holders.links(pid):
        if _name(link) in names:
            with suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                yield status.st_dev, status.st_ino


def _name(path: str) -> str:
    return os.path.basename(path).removesuffix(" (deleted)")


def emit(path: str, image: Image, opener: Opener) -> Slot:
    """The file, empty and open, in the launcher: made, or taken if nobody has it. If the restore fails, what
    was made goes.
    """
    program, where = image.shared, image.string(path)
    note = image.data(_NONE.to_bytes(8, "little"))
    made = program.call(NR.mknodat, AT_FDCWD, where, stat.S_IFREG | 0o600, 0, expect=ok_or(errno.EEXIST))
    program.store(note, made)
    with image.undo.unless_eq(image.undo.load(note), _NONE):
        image.undo.syscall(NR.unlinkat, AT_FDCWD, where, 0, expect=ANY)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = opener.open(NR.openat, AT_FDCWD, where, flags)
    with image.about(path, "end who has it open or mapped, a copy of the program for instance"):
        # Granted only where no other open file leads there (check_conflicting_open in fs/locks.c).
        program.syscall(NR.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    program.syscall(NR.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    program.syscall(NR.ftruncate, fd, 0)
    return fd
