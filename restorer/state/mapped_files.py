# SPDX-License-Identifier: Apache-2.0
"""The files behind mappings, and the executable: opened by the launcher, checked to be what they were."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass

from restorer.errors import Refused
from restorer.program import Image, Program, Slot
from restorer.syscalls import NR

AT_FDCWD = -100
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
class MappedFile:
    """A mapped file: `path` from the launcher's root; size in bytes, mtime in ns.

    Code is known by the build-id in its ELF note (`build_id` in hex at `build_id_offset`), other files by
    size and mtime; of one that is shared and writable only the size counts: the program writes to it.
    """

    path: str
    size: int
    mtime_ns: int
    writable: bool
    build_id_offset: int = 0
    build_id: str = ""


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


def _emit_open(file: MappedFile, image: Image) -> Slot:
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
