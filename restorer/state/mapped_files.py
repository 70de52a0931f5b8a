# SPDX-License-Identifier: Apache-2.0
"""The files behind mappings, and the executable: opened by the launcher, checked to be what they were.

A program whose file has been replaced or deleted since it was started, by an upgrade for instance, carries
that file along in the image, not among the chunks of its memory: whoever writes to a file keeps it from being
anybody's program (deny_write_access in prctl_set_mm_exe_file), so it has to be whole before the tree is made.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import struct
from dataclasses import field

from restorer.errors import Refused
from restorer.program import ANY, Image, Program, Slot, exactly
from restorer.record import dataclass
from restorer.state import unnamed
from restorer.syscalls import NR

AT_FDCWD = -100
CARRIED_BYTES_MAX = 64 << 20
_NAME_BYTES = 200
_RESTART = "restart it first"
_TIMESPEC = struct.Struct("<qq")
# struct stat of x86-64
_STAT_BYTES = 144
_ST_SIZE, _ST_MTIME, _ST_MTIME_NSEC = 48, 88, 96
_HINT = "put the file back as it was, or use --force-files"
_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")


@dataclass(frozen=True)
class Carried:
    """A file that has no name any more: made again as `path`, which exists for a moment only."""

    path: str = field(compare=False)
    mode: int
    owner: tuple[int, int]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class MappedFile:
    """A mapped file: `path` from the launcher's root; size in bytes, mtime in ns.

    Code is known by the build-id in its ELF note (`build_id` in hex at `build_id_offset`), other files by
    size and mtime; of one that is shared and writable only the size counts: the program writes to it. What is
    `carried` need not be there.
    """

    path: str
    size: int
    mtime_ns: int
    writable: bool
    build_id_offset: int = 0
    build_id: str = ""
    carried: Carried | None = None


def capture(path: str, found: os.stat_result, *, writable: bool) -> MappedFile:
    """The file at `path`, which must be the one that the mapping holds (`found`). Raises Refused."""
    try:
        now = os.stat(path)
    except OSError as error:
        raise Refused(f"mapped file {path} cannot be opened any more ({error.strerror})") from None
    if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
        raise Refused(f"mapped file {path} was replaced while the process ran", "restart the process first")
    if not stat.S_ISREG(now.st_mode):
        raise Refused(f"{path} is mapped, and is no regular file")
    offset, build_id = (0, b"") if writable else find_build_id(path)
    return MappedFile(path, now.st_size, now.st_mtime_ns, writable, offset, build_id.hex())


def capture_deleted(link: str, source: str) -> MappedFile:
    """The program's file, which `link` names and `source`, a link of /proc, leads to. Raises Refused."""
    path = link.removesuffix(" (deleted)")
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{path}, the program, was deleted ({error.strerror})", _RESTART) from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if path.startswith("/memfd:"):
            raise Refused(f"the program was started from memory ({path})", "start it from a file")
        if status.st_size > CARRIED_BYTES_MAX:
            size = f"{status.st_size >> 20} MiB"
            raise Refused(f"{path}, the program, was deleted, and is too large to carry ({size})", _RESTART)
        folder = unnamed.find_place(path, fd).folder
        name = f".{os.path.basename(path)[:_NAME_BYTES]}.restorer-{secrets.token_hex(8)}"
        return MappedFile(
            path=path,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            writable=False,
            carried=Carried(
                path=os.path.join(folder, name),
                mode=stat.S_IMODE(status.st_mode),
                owner=(status.st_uid, status.st_gid),
                body=file.read(),
            ),
        )


def find_build_id(path: str) -> tuple[int, bytes]:
    """File offset and bytes of the ELF build-id; (0, b"") where there is none."""
    try:
        with open(path, "rb") as file:
            header = file.read(_EHDR.size)
            if len(header) < _EHDR.size or header[:6] != b"\x7fELF\x02\x01":
                return 0, b""
            fields = _EHDR.unpack(header)
            phoff, phnum = fields[5], fields[10]
            file.seek(phoff)
            table = file.read(_PHDR.size * phnum)
            whole = len(table) // _PHDR.size * _PHDR.size
            for kind, _, offset, _, _, size, _, _ in _PHDR.iter_unpack(table[:whole]):
                if kind == _PT_NOTE and size <= 65536:
                    file.seek(offset)
                    if at := _build_id_in(file.read(size)):
                        return offset + at[0], at[1]
    except OSError as error:
        raise Refused(f"mapped file {path} cannot be read ({error.strerror})") from None
    return 0, b""


def _build_id_in(notes: bytes) -> tuple[int, bytes] | None:
    at = 0
    while at + _NOTE.size <= len(notes):
        name_bytes, desc_bytes, kind = _NOTE.unpack_from(notes, at)
        name = at + _NOTE.size
        desc = name + -(-name_bytes // 4) * 4
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_bytes] == b"GNU\0":
            return desc, notes[desc : desc + desc_bytes]
        at = desc + -(-desc_bytes // 4) * 4
    return None


def emit_open(file: MappedFile, image: Image) -> Slot:
    """Opens the file in the launcher, once; the slot holds an fd at or above fd_base."""
    known = image.opened.get(file)
    if known is None:
        with image.about(f"mapped file {file.path}", _HINT):
            known = image.opened[file] = _emit_open(file, image)
    return known


def _emit_carried(file: MappedFile, carried: Carried, image: Image) -> Slot:
    program, path, spare = image.shared, image.string(carried.path), image.spare
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
    image.undo.syscall(NR.unlink, path, expect=ANY)
    program.syscall(NR.openat, AT_FDCWD, path, flags, 0o600, result=spare)
    size = len(carried.body)
    program.syscall(NR.pwrite64, spare, image.data(carried.body), size, 0, expect=exactly(size))
    program.syscall(NR.fchown, spare, *carried.owner)
    program.syscall(NR.fchmod, spare, carried.mode)
    time = _TIMESPEC.pack(*divmod(file.mtime_ns, 10**9))
    program.syscall(NR.utimensat, spare, 0, image.data(time + time), 0)
    program.syscall(NR.close, spare)
    program.syscall(NR.openat, AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0, result=spare)
    fd = program.call(NR.fcntl, spare, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
    program.syscall(NR.close, spare)
    program.syscall(NR.unlink, path)
    return fd


def _emit_open(file: MappedFile, image: Image) -> Slot:
    if file.carried is not None:
        return _emit_carried(file, file.carried, image)
    program = image.shared
    flags = (os.O_RDWR if file.writable else os.O_RDONLY) | os.O_CLOEXEC
    spare = image.spare
    program.syscall(NR.openat, AT_FDCWD, image.string(file.path), flags, 0, result=spare)
    fd = program.call(NR.fcntl, spare, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
    program.syscall(NR.close, spare)
    status = image.reserve(_STAT_BYTES)
    program.syscall(NR.fstat, fd, status)
    program.check_eq(program.load(status + _ST_SIZE, result=spare), file.size, file_check=True)
    if file.build_id:
        _emit_build_id(file, program, fd)
    elif not file.writable:
        seconds, nanoseconds = divmod(file.mtime_ns, 10**9)
        program.check_eq(program.load(status + _ST_MTIME, result=spare), seconds, file_check=True)
        program.check_eq(program.load(status + _ST_MTIME_NSEC, result=spare), nanoseconds, file_check=True)
    return fd


def _emit_build_id(file: MappedFile, program: Program, fd: Slot) -> None:
    build_id = bytes.fromhex(file.build_id)
    buffer = program.image.reserve(len(build_id))
    count = program.image.spare
    program.syscall(NR.pread64, fd, buffer, len(build_id), file.build_id_offset, result=count)
    program.check_eq(count, len(build_id), file_check=True)
    program.check_mem(buffer, program.image.data(build_id), len(build_id), file_check=True)
