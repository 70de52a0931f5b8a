# SPDX-License-Identifier: Apache-2.0
"""Where an unlinked file is made again: without a name from the start, or created and unlinked at once."""

from __future__ import annotations

import os
import secrets

from restorer.errors import Refused
from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR


@dataclass(frozen=True)
class Place:
    """A folder of the same file system. `name` is for file systems that have no O_TMPFILE, "" on others;
    `linkable`: the file was made by O_TMPFILE, so that it may still be given a name (linkat(2)).
    """

    folder: str
    name: str
    linkable: bool


def find_place(path: str, fd: int) -> Place:
    """For the file `fd` that was once at `path`. Raises Refused when its file system is not there."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    status = os.fstat(fd)
    if not _same_filesystem(fd, status.st_dev, folder):
        raise Refused(f"{path} has been deleted, and so has its folder", "close it first")
    name = "" if _has_tmpfile(folder) else f".restorer-{secrets.token_hex(8)}"
    return Place(folder, name, os.path.basename(path) == f"#{status.st_ino}")


def _same_filesystem(fd: int, dev: int, folder: str) -> bool:
    # overlayfs and btrfs give files other device numbers than folders, but one id to all of a file system.
    if os.stat(folder).st_dev == dev:
        return True
    return os.fstatvfs(fd).f_fsid == os.statvfs(folder).f_fsid != 0


def _has_tmpfile(folder: str) -> bool:
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True


def emit(place: Place, image: Image, opener: Opener) -> Slot:
    """Makes the file in the launcher, open for reading and writing."""
    if not place.name:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | (0 if place.linkable else os.O_EXCL)
        return opener.open(NR.openat, AT_FDCWD, image.string(place.folder), flags, 0o600)
    path = image.string(os.path.join(place.folder, place.name))
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
    fd = opener.open(NR.openat, AT_FDCWD, path, flags, 0o600)
    image.shared.syscall(NR.unlink, path)
    return fd
