# SPDX-License-Identifier: Apache-2.0
"""What an fd reaches by a path: regular files, directories, harmless character devices, O_PATH handles."""

from __future__ import annotations

import functools
import os
import stat

from restorer.errors import Refused
from restorer.program import Data, Image, Program, Slot, exactly
from restorer.record import dataclass
from restorer.state import contents
from restorer.state.contents import Content
from restorer.state.descriptors import Descriptor, path_of
from restorer.state.opening import AT_FDCWD, STAT_MTIME, STAT_RDEV, STAT_SIZE, Opener
from restorer.syscalls import NR

# Stateless: whoever opens them anew gets the same thing.
_DEVICES = {(1, 3): "null", (1, 5): "zero", (1, 7): "full", (1, 8): "random", (1, 9): "urandom"}
# By major number, and by both: what it is, and the way out. What they are about is in a driver.
_MACHINE, _GPU = "shut the virtual machine down first", "end what uses the GPU first, or run it on the CPU"
_DRIVERS = {
    (226, None): ("GPU", _GPU),
    (195, None): ("GPU", _GPU),
    (116, None): ("sound device", "close it first"),
    (13, None): ("input device", "close it first"),
    (10, 200): ("tunnel device", "take the tunnel down first"),
    (10, 229): ("FUSE connection", "unmount the file system that the process serves first"),
    (10, 232): ("KVM", _MACHINE),
    (10, 235): ("autofs control", "stop the automounter first"),
    (10, 238): ("vhost device", _MACHINE),
    (10, 241): ("vhost device", _MACHINE),
}
# Their files are views of the kernel, with sizes and times that mean nothing.
_VIEWS = frozenset(
    {"proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "devpts", "configfs"}
)


@dataclass(frozen=True)
class File:
    """An open path. `size_bytes` and `mtime` (seconds, nanoseconds) are compared by restore, if any. With
    `content` there is no path to it any more, and its bytes travel in the image.
    """

    path: str
    flags: int
    pos: int
    type: str
    rdev: int
    size_bytes: int | None
    mtime: tuple[int, int] | None
    content: Content | None = None
    kind: str = "file"


def capture(descriptor: Descriptor) -> File:
    """Describes an fd whose link is a path. Raises Refused for deleted files and for devices."""
    _refuse_special(descriptor)
    if has_no_name(descriptor):
        return _capture_unnamed(descriptor)
    path = path_of(descriptor)
    status = descriptor.stat
    kind = _type(descriptor)
    size_bytes = mtime = None
    if kind == "file" and not _is_view(status.st_dev):
        size_bytes = status.st_size
        if descriptor.access == os.O_RDONLY and not descriptor.flags & os.O_PATH:
            mtime = divmod(status.st_mtime_ns, 1_000_000_000)
    pos = 0 if kind in ("device", "path") else descriptor.pos
    return File(path, descriptor.kept_flags, pos, kind, status.st_rdev, size_bytes, mtime)


def _refuse_special(descriptor: Descriptor) -> None:
    if descriptor.link.startswith("/secretmem"):
        raise descriptor.refused(
            "memfd_secret cannot be checkpointed: nobody else can read it", "close it first"
        )
    if descriptor.link.startswith("/dmabuf:"):
        raise descriptor.refused("DMA buffer cannot be checkpointed: a device has it", _GPU)


def has_no_name(descriptor: Descriptor) -> bool:
    """Whether it is a file whose bytes travel in the image."""
    status = descriptor.stat
    regular = stat.S_ISREG(status.st_mode) and not status.st_nlink and not descriptor.flags & os.O_PATH
    return regular and contents.kind_of(descriptor.link) != ""


def _capture_unnamed(descriptor: Descriptor) -> File:
    source = f"/proc/{descriptor.pid}/fd/{descriptor.number}"
    try:
        content = contents.capture(descriptor.link, source)
    except Refused as refusal:
        raise descriptor.refused(refusal.cause, refusal.hint) from None
    flags, path = descriptor.kept_flags, content.name
    return File(path, flags, descriptor.pos, "file", descriptor.stat.st_rdev, None, None, content)


def _type(descriptor: Descriptor) -> str:
    mode, rdev = descriptor.stat.st_mode, descriptor.stat.st_rdev
    if descriptor.flags & os.O_PATH:
        return "path"
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) and (os.major(rdev), os.minor(rdev)) in _DEVICES:
        return "device"
    what, hint = _described(mode, rdev)
    number = f" {os.major(rdev)}:{os.minor(rdev)}" if rdev else ""
    raise descriptor.refused(f"{what} {descriptor.link}{number} cannot be checkpointed", hint)


def _described(mode: int, rdev: int) -> tuple[str, str]:
    """What it is in words, and the way out."""
    if not stat.S_ISCHR(mode):
        return ("block device" if stat.S_ISBLK(mode) else "special file"), "close it first"
    major, minor = os.major(rdev), os.minor(rdev)
    return _DRIVERS.get((major, minor)) or _DRIVERS.get((major, None)) or ("device", "close it first")


@functools.cache
def _filesystem(dev: int) -> str:
    """The file system type of a device number, "" where the mount table does not show it (btrfs, overlay)."""
    wanted = f"{os.major(dev)}:{os.minor(dev)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


def _is_view(dev: int) -> bool:
    return _filesystem(dev) in _VIEWS


def emit(file: File, image: Image, opener: Opener) -> Slot:
    """Opens it in the launcher, compares it with what it was, puts the offset back."""
    if file.content is not None:
        return _emit_position(file, contents.emit_open(file.content, file.flags, image), image.main)
    flags = file.flags | os.O_CLOEXEC | os.O_NOCTTY
    if file.type == "path":
        flags |= os.O_NOFOLLOW
    if file.type == "directory":
        flags |= os.O_DIRECTORY
    fd = opener.open(NR.openat, AT_FDCWD, image.string(file.path), flags)
    _check(file, image, opener, fd)
    return _emit_position(file, fd, image.shared)


def _emit_position(file: File, fd: Slot, program: Program) -> Slot:
    if file.pos:
        program.syscall(NR.lseek, fd, file.pos, os.SEEK_SET, expect=exactly(file.pos))
    return fd


def _check(file: File, image: Image, opener: Opener, fd: Slot) -> None:
    program, status = image.shared, opener.stat
    program.syscall(NR.fstat, fd, status)
    if file.type in ("file", "device"):
        _same(image, status + STAT_RDEV, file.rdev)
    if file.size_bytes is None:
        return
    if file.mtime is None:
        if file.size_bytes:
            program.check_ge(program.load(status + STAT_SIZE), file.size_bytes, file_check=True)
        return
    _same(image, status + STAT_SIZE, file.size_bytes)
    _same(image, status + STAT_MTIME, file.mtime[0])
    _same(image, status + STAT_MTIME + 8, file.mtime[1])


def _same(image: Image, addr: Data, value: int) -> None:
    expected = image.data(value.to_bytes(8, "little", signed=value < 0))
    image.shared.check_mem(addr, expected, 8, file_check=True)
