# SPDX-License-Identifier: Apache-2.0
"""System V message queues that the tree uses: those of which one of its processes was the last to send or
receive.

No process holds a queue, so that is all that can be known. Messages are read without being taken (MSG_COPY,
msgop(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection

from restorer.errors import Refused
from restorer.program import ANY, Image
from restorer.record import dataclass
from restorer.state import sysvipc
from restorer.state.sysvipc import Identity
from restorer.syscalls import NR

_IPC_NOWAIT, _MSG_COPY = 0o4000, 0o40000
# struct msqid64_ds on x86-64
_QBYTES_AT, _STATUS_BYTES = 88, 120
_TYPE_BYTES = 8
_libc = ctypes.CDLL(None, use_errno=True)
_libc.msgrcv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int)
_libc.msgrcv.restype = ctypes.c_ssize_t


@dataclass(frozen=True)
class Queue:
    """One queue; each message is its type, 8 bytes, and its text. `limit_bytes` is msg_qbytes."""

    identity: Identity
    limit_bytes: int
    messages: tuple[bytes, ...]


def capture(pids: Collection[int]) -> tuple[Queue, ...]:
    """The queues of these processes, IDs as in our own PID namespace. Raises Refused for one that cannot be
    read.
    """
    return tuple(
        Queue(identity, _limit(identity.id), _messages(identity.id, facts["qnum"], facts["cbytes"]))
        for identity, facts in sysvipc.rows("msg")
        if facts["lspid"] in pids or facts["lrpid"] in pids
    )


def _limit(number: int) -> int:
    status = (ctypes.c_char * _STATUS_BYTES)()
    if _libc.msgctl(number, sysvipc.STAT, status):
        raise _unreadable(number)
    return int.from_bytes(status.raw[_QBYTES_AT : _QBYTES_AT + 8], "little")


def _messages(number: int, count: int, total_bytes: int) -> tuple[bytes, ...]:
    found = []
    buffer = (ctypes.c_char * (_TYPE_BYTES + total_bytes))()
    for index in range(count):
        length = _libc.msgrcv(number, buffer, total_bytes, index, _IPC_NOWAIT | _MSG_COPY)
        if length < 0:
            raise _unreadable(number)
        found.append(buffer.raw[: _TYPE_BYTES + length])
    return tuple(found)


def _unreadable(number: int) -> Refused:
    return Refused(f"System V message queue {number} cannot be read ({os.strerror(ctypes.get_errno())})")


def emit(queue: Queue, image: Image) -> None:
    """Makes the queue, in the launcher, in place of one that is there; the process itself fills it."""
    program, identity = image.shared, queue.identity
    hint = f"its ID or key is in use: `ipcs -q` lists them, `ipcrm -q {identity.id}` removes it"
    with image.about(f"System V message queue {identity.id}", hint):
        sysvipc.emit_namespace(image)
        status = image.reserve(_STATUS_BYTES)
        absent = program.call(NR.msgctl, identity.id, sysvipc.STAT, status, expect=ANY)
        with program.unless_eq(absent, -errno.EINVAL):
            program.check_eq(program.load(status + sysvipc.KEY_AT, 4), identity.key & 0xFFFFFFFF)
        with program.unless_eq(absent, 0):
            sysvipc.emit_free_key(identity, NR.msgget, image)
        sysvipc.emit_next_id(identity, "msg", image)
        with sysvipc.as_creator(identity, image):
            # When all else has been done that may fail. If that fails, the ID is still the next one's.
            gone, flags = image.data(bytes(8)), sysvipc.CREATE | identity.mode
            with program.unless_eq(absent, -errno.EINVAL):
                program.syscall(NR.msgctl, identity.id, sysvipc.RMID, 0)
                program.store(gone, 1)
            made = program.call(NR.msgget, identity.key, flags)
            program.store(gone, 0)
            with image.undo.unless_eq(image.undo.load(gone), 0):
                image.undo.syscall(NR.msgget, identity.key, flags, expect=ANY)
            with program.unless_eq(absent, 0):
                note = sysvipc.emit_note(made, image)
        sysvipc.emit_undo(note, NR.msgctl, image)
        program.check_eq(made, identity.id)
        limit = bytes(_QBYTES_AT - sysvipc.PERM_BYTES) + queue.limit_bytes.to_bytes(8, "little")
        wanted = image.data((identity.perm() + limit).ljust(_STATUS_BYTES, b"\0"))
        program.syscall(NR.msgctl, identity.id, sysvipc.SET, wanted)
        for message in queue.messages:
            length = len(message) - _TYPE_BYTES
            image.main.syscall(NR.msgsnd, identity.id, image.data(message), length, _IPC_NOWAIT)
