# SPDX-License-Identifier: Apache-2.0
"""System V shared memory that is attached: segments keep their ID and key (sysvipc(7)).

A segment outlives those who attach it. So a restore takes the one that is still there, if nobody else has
attached it and ID, key and size are those of the image; what it holds becomes what it held at the
checkpoint. Otherwise it makes it, with the ID that kernel.shm_next_id asks for, and takes it away again
when the restore fails. A segment that was marked for removal is marked again once all have attached it.
Copies in PID namespaces have segments of their own, in IPC namespaces of their own.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from dataclasses import dataclass

from restorer.errors import Refused
from restorer.program import ANY, SLOT, Image, exactly
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR

PREFIX = "/SYSV"

_IPC_CREAT_EXCL = 0o3000
_IPC_RMID, _IPC_SET, _IPC_STAT = 0, 1, 2
_SHM_DEST, _SHM_LOCKED, _MODE = 0o1000, 0o2000, 0o777
_SHM_RDONLY, _SHM_EXEC = 0o10000, 0o100000
_NEXT_ID = "/proc/sys/kernel/shm_next_id"
# struct shmid64_ds on x86-64 begins with struct ipc64_perm, of which IPC_SET takes uid, gid and mode.
_PERM = struct.Struct("<iIIIII")
_SHMID_DS_BYTES = 112
_KEY_AT, _SEGSZ_AT, _NATTCH_AT = 0, 48, 88
_NONE = (1 << 64) - 1
_MADV_REMOVE = 9


@dataclass(frozen=True)
class Segment:
    """One segment. `key` is 0 for IPC_PRIVATE and for one that is `doomed`: gone with the last who detaches
    it. `owner` and `creator` are (uid, gid).
    """

    id: int
    key: int
    size_bytes: int
    mode: int
    owner: tuple[int, int]
    creator: tuple[int, int]
    doomed: bool


def capture(number: int) -> Segment:
    """The segment with this ID, which is the inode of its mappings. Raises Refused for one that is locked in
    memory, or not of our IPC namespace.
    """
    with open("/proc/sysvipc/shm", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    for key, own_id, perms, size, _, _, _, uid, gid, cuid, cgid, *_ in rows:
        if int(own_id) == number:
            bits = int(perms, 8)
            if bits & _SHM_LOCKED:
                raise Refused(f"System V shared memory {number} is locked (SHM_LOCK)", "unlock it first")
            return Segment(
                id=number,
                key=int(key),
                size_bytes=int(size),
                mode=bits & _MODE,
                owner=(int(uid), int(gid)),
                creator=(int(cuid), int(cgid)),
                doomed=bool(bits & _SHM_DEST),
            )
    raise Refused(f"System V shared memory {number} is not of this IPC namespace")


def emit(segment: Segment, image: Image) -> None:
    """Makes or finds it, in the launcher."""
    program = image.shared
    hint = f"somebody uses it, or its ID or key: `ipcs -m` lists them, `ipcrm -m {segment.id}` removes it"
    with image.about(f"System V shared memory {segment.id}", hint):
        if "ipc" not in image.opened:
            image.opened["ipc"] = program.call(NR.unshare, SLOT.new_ipc)
        status = image.reserve(_SHMID_DS_BYTES)
        absent = program.call(NR.shmctl, segment.id, _IPC_STAT, status, expect=ANY)
        with program.unless_eq(absent, 0):
            _emit_new(segment, image)
        program.syscall(NR.shmctl, segment.id, _IPC_STAT, status)
        program.check_eq(program.load(status + _KEY_AT, 4), segment.key & 0xFFFFFFFF)
        program.check_eq(program.load(status + _SEGSZ_AT), segment.size_bytes)
        program.check_eq(program.load(status + _NATTCH_AT), 0)
        perm = _PERM.pack(segment.key, *segment.owner, 0, 0, segment.mode)
        program.syscall(NR.shmctl, segment.id, _IPC_SET, image.data(perm.ljust(_SHMID_DS_BYTES, b"\0")))


def _emit_new(segment: Segment, image: Image) -> None:
    program = image.shared
    if segment.key:
        # Found out now: shmget would leave the ID asked for to whoever makes the next segment.
        program.syscall(NR.shmget, segment.key, 0, 0, expect=exactly(-errno.ENOENT))
    control = Opener(image).open(NR.openat, AT_FDCWD, image.string(_NEXT_ID), os.O_WRONLY | os.O_CLOEXEC)
    number = str(segment.id).encode()
    program.syscall(NR.write, control, image.data(number), len(number), expect=exactly(len(number)))
    program.syscall(NR.close, control)
    uid, gid = program.call(NR.geteuid), program.call(NR.getegid)
    program.syscall(NR.setresgid, -1, segment.creator[1], -1)
    program.syscall(NR.setresuid, -1, segment.creator[0], -1)
    made = program.call(NR.shmget, segment.key, segment.size_bytes, _IPC_CREAT_EXCL | segment.mode)
    program.syscall(NR.setresuid, -1, uid, -1)
    program.syscall(NR.setresgid, -1, gid, -1)
    note = image.data(_NONE.to_bytes(8, "little"))
    program.store(note, made)
    image.undo.syscall(NR.shmctl, image.undo.load(note), _IPC_RMID, 0, expect=ANY)
    program.check_eq(made, segment.id)


def emit_window(segment: Segment, addr: int, image: Image) -> None:
    """Maps all of it, empty, at `addr`: what it held is gone."""
    program = image.main
    program.syscall(NR.shmat, segment.id, addr, 0, expect=exactly(addr))
    program.syscall(NR.madvise, addr, -(-segment.size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE, _MADV_REMOVE)


def emit_attach(segment: Segment, addr: int, prot: int, writable: bool, image: Image) -> None:
    """Maps all of it at `addr`. Without `writable` the mapping can never become so."""
    flags = 0 if writable else _SHM_RDONLY
    flags |= _SHM_EXEC if prot & mmap.PROT_EXEC else 0
    image.main.syscall(NR.shmat, segment.id, addr, flags, expect=exactly(addr))


def emit_late(segment: Segment, image: Image) -> None:
    """Once its content is there."""
    if segment.doomed:
        image.main.syscall(NR.shmctl, segment.id, _IPC_RMID, 0)
