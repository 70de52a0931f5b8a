# SPDX-License-Identifier: Apache-2.0
"""Names of unix sockets: bound by the launcher, relative ones from the working directory of who had them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from restorer.program import ANY, OK, Data, Image, Program, Slot, exactly, ok_or
from restorer.record import dataclass
from restorer.state import othernames
from restorer.state.descriptors import Descriptor
from restorer.state.opening import AT_FDCWD, Opener
from restorer.state.sockdiag import UnixInfo
from restorer.syscalls import NR

_AT_SYMLINK_NOFOLLOW = 0x100
_RENAME_NOREPLACE = 1
_SIOCUNIXFILE = 0x89E0
_PATH_MAX_BYTES = 107
_PLACE = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True)
class SocketFile:
    """The inode a bound name made. `moved` is the name that it has now, where it was renamed, or if it is
    `gone` the one that it gets until all are connected that are to be. `root` is the root directory, as seen
    from outside, of who has bound it: a name inside of a chroot starts there.
    """

    mode: int
    uid: int
    gid: int
    moved: bytes = b""
    gone: bool = False
    root: str = "/"


@dataclass(frozen=True)
class Home:
    """The way back from a chroot: an fd of the root directory, and where a program notes that it is away."""

    top: Slot
    away: Data


@dataclass(frozen=True)
class Start:
    """Where a name leads from: a relative one from `cwd`, others from `root`, both as seen from outside;
    `home` is there if that is a chroot.
    """

    cwd: str
    root: str = "/"
    home: Home | None = None

    def path(self, name: bytes) -> bytes:
        """As seen from outside."""
        base = self.cwd if is_relative(name) else self.root
        return os.path.join(os.fsencode(base), name if is_relative(name) else name.lstrip(b"/"))


def is_path(name: bytes) -> bool:
    """Whether a file stands for it; others are abstract, or none."""
    return name[:1] not in (b"", b"\0")


def is_relative(name: bytes) -> bool:
    """Whether what it leads to depends on a working directory."""
    return is_path(name) and not name.startswith(b"/")


def shown(name: bytes) -> str:
    """As people write it."""
    return os.fsdecode(name).replace("\0", "@")


def pack(name: bytes) -> bytes:
    """struct sockaddr_un up to the length that counts."""
    ending = b"" if name.startswith(b"\0") else b"\0"
    return struct.pack("=H", socket.AF_UNIX) + name + ending


def seen_from(pid: int, name: bytes) -> str:
    """The path by which this process sees the file that `pid` means."""
    base = f"/proc/{pid}/{'root' if name.startswith(b'/') else 'cwd'}"
    return os.path.join(base, os.fsdecode(name).lstrip("/"))


def _candidates(pid: int, name: bytes) -> Iterator[tuple[str, str]]:
    """Paths by which this process may see the file, and the root directory of each: a server may have bound
    its sockets before it went into a chroot.
    """
    root = os.readlink(f"/proc/{pid}/root")
    if root != "/" and not is_relative(name):
        yield os.fsdecode(name), "/"
        yield seen_from(pid, name), root
    else:
        yield seen_from(pid, name), "/"


def check_folder(descriptor: Descriptor, name: bytes) -> None:
    """Raises Refused for a name that leads nowhere from the working directory, which has been deleted."""
    if is_relative(name) and not os.stat(f"/proc/{descriptor.pid}/cwd").st_nlink:
        raise descriptor.refused(
            f"unix socket {shown(name)} has a name from the working directory, which has been deleted",
            "close it first",
        )


def file_of(descriptor: Descriptor, sock: socket.socket, name: bytes, info: UnixInfo) -> SocketFile | None:
    """The file of a bound name, None for an abstract one; `sock` is a duplicate of the socket. Raises Refused
    when it cannot be made again.
    """
    if not is_path(name):
        return None
    taken = False
    for path, root in _candidates(descriptor.pid, name):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if _is_file_of(status, info):
            return SocketFile(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, root=root)
        taken = True
    if taken:
        raise descriptor.refused(f"{shown(name)} is not the file of this socket any more", "bind it anew")
    return _file_elsewhere(descriptor, sock, name, info)


def _is_file_of(status: os.stat_result, info: UnixInfo) -> bool:
    return stat.S_ISSOCK(status.st_mode) and status.st_ino & 0xFFFFFFFF == info.vfs_inode


def _file_elsewhere(descriptor: Descriptor, sock: socket.socket, name: bytes, info: UnixInfo) -> SocketFile:
    """Servers that replace one another bind a name of their own, and rename it to the one that clients know;
    others delete the file.
    """
    try:
        fd = fcntl.ioctl(sock.fileno(), _SIOCUNIXFILE)
    except OSError as error:
        raise descriptor.refused(
            f"socket file {shown(name)} has been deleted or renamed, and cannot be asked for "
            f"({error.strerror})",
            "run as root",
        ) from None
    try:
        status, path = os.fstat(fd), os.readlink(b"/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)
    path = os.fsencode(othernames.find(os.fsdecode(path), status) or path)
    root, gone = _root_of(descriptor.pid, name, path), not status.st_nlink
    if gone:
        moved = os.path.join(os.path.dirname(name), b".restorer-%d" % info.inode)
    else:
        moved = path.removeprefix(os.fsencode(root or "").rstrip(b"/"))
    if root is None or len(moved) > _PATH_MAX_BYTES or not (gone or _leads_to(path, status)):
        raise descriptor.refused(
            f"socket file {shown(name)} has another name now, {shown(path)}, by which nobody can connect",
            "rename it first",
        )
    return SocketFile(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, moved, gone, root)


def _root_of(pid: int, name: bytes, path: bytes) -> str | None:
    """The root directory that `name` was bound from, `path` being where its file is now, or was: in a chroot
    it is known by the folder, which must be the same. None if it is another one.
    """
    if is_relative(name) or os.readlink(f"/proc/{pid}/root") == "/":
        return "/"
    for folder_path, root in _candidates(pid, os.path.dirname(name)):
        with suppress(OSError):
            if os.path.samefile(folder_path, os.path.dirname(path)):
                return root
    return None


def _leads_to(path: bytes, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False


def emit_home(opener: Opener) -> Home:
    """Before anything is made inside of a chroot: an op that fails there leaves the launcher in it, whose
    `undo` takes away what it knows by paths from outside.
    """
    image = opener.image
    top = opener.open(NR.openat, AT_FDCWD, image.string("/"), _PLACE)
    home = Home(top, image.data(bytes(8)))
    with image.undo.unless_eq(image.undo.load(home.away), 0):
        _emit_leave(home, image, image.undo)
    return home


def _emit_leave(home: Home, image: Image, program: Program) -> None:
    program.syscall(NR.fchdir, home.top, expect=ANY if program is image.undo else OK)
    program.syscall(NR.chroot, image.string("."), expect=ANY if program is image.undo else OK)


@contextmanager
def folder(name: bytes, start: Start, opener: Opener) -> Iterator[None]:
    """Ops inside find `name` from its start; working and root directory are what they were after them."""
    if not is_relative(name) and not (is_path(name) and start.home):
        yield
        return
    image, program = opener.image, opener.program
    with image.about(f"working directory {start.cwd}"):
        here = opener.open(NR.openat, AT_FDCWD, image.string("."), _PLACE)
    if is_relative(name):
        with image.about(f"working directory {start.cwd}"):
            program.syscall(NR.chdir, image.string(start.cwd))
        yield
    elif start.home:
        with image.about(f"root directory {start.root}", "make it again"):
            program.store(start.home.away, 1)
            program.syscall(NR.chroot, image.string(start.root))
        yield
        _emit_leave(start.home, image, program)
        program.store(start.home.away, 0)
    program.syscall(NR.fchdir, here)
    opener.close(here)


def emit_address(nr: int, fd: Slot | int, name: bytes, image: Image, program: Program) -> None:
    """bind or connect."""
    packed = pack(name)
    program.syscall(nr, fd, image.data(packed), len(packed))


def emit_bind(name: bytes, file: SocketFile | None, start: Start, fd: Slot, opener: Opener) -> None:
    """Binds `fd`, after what the former process has left is gone; in the launcher."""
    image, program = opener.image, opener.program
    with folder(name, start, opener):
        if file is None:
            emit_address(NR.bind, fd, name, image, program)
            return
        if not file.moved:
            _emit_take_away(name, file, image, program)
        emit_address(NR.bind, fd, name, image, program)
        note = emit_undo(start.path(name), image)
        path = image.string(name)
        program.syscall(NR.fchownat, AT_FDCWD, path, file.uid, file.gid, _AT_SYMLINK_NOFOLLOW)
        program.syscall(NR.fchmodat, AT_FDCWD, path, file.mode)
        if file.moved:
            if not file.gone:
                _emit_take_away(file.moved, file, image, program)
            moved = image.string(file.moved)
            program.syscall(NR.renameat2, AT_FDCWD, path, AT_FDCWD, moved, _RENAME_NOREPLACE)
            program.store(note, 0)
            emit_undo(start.path(file.moved), image)


def emit_gone(file: SocketFile | None, start: Start, opener: Opener) -> None:
    """Deletes what had been deleted."""
    if file is not None and file.gone:
        with folder(file.moved, start, opener):
            opener.program.syscall(NR.unlinkat, AT_FDCWD, opener.image.string(file.moved), 0)


def emit_undo(path: bytes, image: Image) -> Data:
    """A restore that fails takes the file away again, unless it finds 0 where this says."""
    note = image.data(bytes(8))
    image.shared.store(note, 1)
    with image.undo.unless_eq(image.undo.load(note), 0):
        image.undo.syscall(NR.unlinkat, AT_FDCWD, image.string(path), 0, expect=ANY)
    return note


def _emit_take_away(name: bytes, file: SocketFile, image: Image, program: Program) -> None:
    """Removes the file the former process left, but nothing that is no socket, nor one that somebody serves.

    A socket is put there if nothing is, so that each of the steps has one right answer: opening a socket file
    says ENXIO, and connecting to one that nobody serves ECONNREFUSED.
    """
    path = image.string(name)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    program.syscall(NR.mknodat, AT_FDCWD, path, stat.S_IFSOCK | file.mode, 0, expect=ok_or(errno.EEXIST))
    program.syscall(NR.openat, AT_FDCWD, path, flags, expect=exactly(-errno.ENXIO))
    probe = program.call(NR.socket, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
    packed = pack(name)
    refused = exactly(-errno.ECONNREFUSED)
    program.syscall(NR.connect, probe, image.data(packed), len(packed), expect=refused)
    program.syscall(NR.close, probe)
    program.syscall(NR.unlinkat, AT_FDCWD, path, 0)
