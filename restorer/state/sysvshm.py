# SPDX-License-Identifier: Apache-2.0
"""System V shared memory that is attached: segments keep their ID and key.

One that is still there is taken if nobody else has attached it; what it holds becomes what it held at the
checkpoint. One that was marked for removal is marked again once all have attached it.
"""

from __future__ import annotations

import mmap

from restorer.errors import Refused
from restorer.program import ANY, Image, Slot, exactly
from restorer.record import dataclass
from restorer.state import hugetlb, sysvipc
from restorer.state.sysvipc import Identity
from restorer.syscalls import NR

PREFIX = "/SYSV"

_SHM_DEST, _SHM_LOCKED = 0o1000, 0o2000
_SHM_RDONLY, _SHM_EXEC = 0o10000, 0o100000
_MADV_REMOVE = 9
# struct shmid64_ds on x86-64
_SEGSZ_AT, _NATTCH_AT, _STATUS_BYTES = 48, 88, 112


@dataclass(frozen=True)
class Segment:
    """One segment; a `doomed` one is gone with the last who detaches it, and has no key. `huge_bytes` is the
    size of its pages where they are hugetlbfs's, else 0.
    """

    identity: Identity
    size_bytes: int
    doomed: bool
    huge_bytes: int = 0


def capture(number: int, huge_bytes: int = 0) -> Segment:
    """The segment with this ID, which is the inode of its mappings. Raises Refused for one that is locked in
    memory, or not of our IPC namespace.
    """
    for identity, facts in sysvipc.rows("shm"):
        if identity.id == number:
            if facts["perms"] & _SHM_LOCKED:
                raise Refused(f"System V shared memory {number} is locked (SHM_LOCK)", "unlock it first")
            return Segment(identity, facts["size"], bool(facts["perms"] & _SHM_DEST), huge_bytes)
    raise Refused(f"System V shared memory {number} is not of this IPC namespace")


def emit(segment: Segment, image: Image) -> None:
    """Makes or finds it, in the launcher."""
    program, identity = image.shared, segment.identity
    hint = f"somebody uses it, or its ID or key: `ipcs -m` lists them, `ipcrm -m {identity.id}` removes it"
    with image.about(f"System V shared memory {identity.id}", hint):
        sysvipc.emit_namespace(image)
        status = image.reserve(_STATUS_BYTES)
        absent = program.call(NR.shmctl, identity.id, sysvipc.STAT, status, expect=ANY)
        with program.unless_eq(absent, 0):
            _emit_new(segment, image)
        program.syscall(NR.shmctl, identity.id, sysvipc.STAT, status)
        program.check_eq(program.load(status + sysvipc.KEY_AT, 4), identity.key & 0xFFFFFFFF)
        program.check_eq(program.load(status + _SEGSZ_AT), segment.size_bytes)
        program.check_eq(program.load(status + _NATTCH_AT), 0)
        perm = image.data(identity.perm().ljust(_STATUS_BYTES, b"\0"))
        program.syscall(NR.shmctl, identity.id, sysvipc.SET, perm)


def _emit_new(segment: Segment, image: Image) -> None:
    identity = segment.identity
    sysvipc.emit_free_key(identity, NR.shmget, image)
    sysvipc.emit_next_id(identity, "shm", image)
    with sysvipc.as_creator(identity, image):
        made = _emit_get(segment, sysvipc.CREATE | identity.mode, image)
        note = sysvipc.emit_note(made, image)
    sysvipc.emit_undo(note, NR.shmctl, image)
    image.shared.check_eq(made, identity.id)


def _emit_get(segment: Segment, flags: int, image: Image) -> Slot:
    identity = segment.identity
    if not segment.huge_bytes:
        return image.shared.call(NR.shmget, identity.key, segment.size_bytes, flags)
    flags |= hugetlb.with_size(hugetlb.SHM_HUGETLB, segment.huge_bytes)
    with image.about(f"System V shared memory {identity.id}", hugetlb.hint(segment.huge_bytes)):
        return image.shared.call(NR.shmget, identity.key, segment.size_bytes, flags)


def emit_window(segment: Segment, addr: int, length: int, image: Image) -> None:
    """Maps all of it, empty, at `addr`: what it held is gone."""
    program = image.main
    program.syscall(NR.shmat, segment.identity.id, addr, 0, expect=exactly(addr))
    program.syscall(NR.madvise, addr, length, _MADV_REMOVE)


def emit_attach(segment: Segment, addr: int, prot: int, writable: bool, image: Image) -> None:
    """Maps all of it at `addr`. Without `writable` the mapping can never become so."""
    flags = 0 if writable else _SHM_RDONLY
    flags |= _SHM_EXEC if prot & mmap.PROT_EXEC else 0
    image.main.syscall(NR.shmat, segment.identity.id, addr, flags, expect=exactly(addr))


def emit_late(segment: Segment, image: Image) -> None:
    """Once its content is there."""
    if segment.doomed:
        image.main.syscall(NR.shmctl, segment.identity.id, sysvipc.RMID, 0)
