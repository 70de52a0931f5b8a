# SPDX-License-Identifier: Apache-2.0
"""System V semaphores that the tree uses: sets of which one of its processes was the last to touch a
semaphore.

No process holds a set, so that is all that can be known. What SEM_UNDO has noted no call shows, but whether
there is a list for it does kcmp(2): who has never asked for it has none, like ourselves. But who ever had a
thread has one too: the C library makes them with CLONE_SYSVSEM, and that makes a list (copy_semundo).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Sequence

from restorer.errors import Refused
from restorer.native import kcmp
from restorer.program import ANY, Image
from restorer.record import dataclass
from restorer.state import sysvipc
from restorer.state.sysvipc import Identity
from restorer.syscalls import NR
from restorer.tracee import Tracee

_KCMP_SYSVSEM = 6
_GETPID, _GETALL, _SETALL = 11, 13, 17
# struct semid64_ds on x86-64
_NSEMS_AT, _STATUS_BYTES = 80, 104
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Semaphores:
    """One set and its values."""

    identity: Identity
    values: tuple[int, ...]


def check(tracees: Sequence[Tracee]) -> None:
    """Raises Refused for what the end of a process might undo; where the tree uses no semaphores, nothing."""
    if not capture([tracee.pid for tracee in tracees]):
        return
    for tracee in tracees:
        if any(kcmp(os.getpid(), thread.tid, _KCMP_SYSVSEM, 0, 0) for thread in tracee.threads):
            raise Refused(
                f"process {tracee.pid} has used System V semaphores with SEM_UNDO, or has threads and might "
                "have: what its end would undo is shown nowhere",
                "have it lock in another way (Apache: Mutex pthread); `ipcs -s` lists semaphores",
            )


def capture(pids: Collection[int]) -> tuple[Semaphores, ...]:
    """The sets of these processes, IDs as in our own PID namespace."""
    found = []
    for identity, facts in sysvipc.rows("sem"):
        count = facts["nsems"]
        users = (_libc.semctl(identity.id, number, _GETPID) for number in range(count))
        values = (ctypes.c_ushort * count)()
        if any(user in pids for user in users) and _libc.semctl(identity.id, 0, _GETALL, values) == 0:
            found.append(Semaphores(identity, tuple(values)))
    return tuple(found)


def emit(state: Semaphores, image: Image) -> None:
    """Makes or finds the set, in the launcher; the process itself sets the values, as its last user."""
    program, identity = image.shared, state.identity
    hint = f"its ID or key is in use: `ipcs -s` lists them, `ipcrm -s {identity.id}` removes it"
    with image.about(f"System V semaphores {identity.id}", hint):
        sysvipc.emit_namespace(image)
        status = image.reserve(_STATUS_BYTES)
        absent = program.call(NR.semctl, identity.id, 0, sysvipc.STAT, status, expect=ANY)
        with program.unless_eq(absent, 0):
            _emit_new(state, image)
        program.syscall(NR.semctl, identity.id, 0, sysvipc.STAT, status)
        program.check_eq(program.load(status + sysvipc.KEY_AT, 4), identity.key & 0xFFFFFFFF)
        program.check_eq(program.load(status + _NSEMS_AT), len(state.values))
        perm = image.data(identity.perm().ljust(_STATUS_BYTES, b"\0"))
        program.syscall(NR.semctl, identity.id, 0, sysvipc.SET, perm)
        values = image.data(struct.pack(f"<{len(state.values)}H", *state.values))
        image.main.syscall(NR.semctl, identity.id, 0, _SETALL, values)


def _emit_new(state: Semaphores, image: Image) -> None:
    identity = state.identity
    sysvipc.emit_free_key(identity, NR.semget, image)
    sysvipc.emit_next_id(identity, "sem", image)
    with sysvipc.as_creator(identity, image):
        flags = sysvipc.CREATE | identity.mode
        made = image.shared.call(NR.semget, identity.key, len(state.values), flags)
        note = sysvipc.emit_note(made, image)
    sysvipc.emit_undo(note, NR.semctl, image)
    image.shared.check_eq(made, identity.id)
