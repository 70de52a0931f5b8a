# SPDX-License-Identifier: Apache-2.0
"""What all objects of System V IPC have in common: IDs and keys, owners, and a namespace (sysvipc(7)).

They outlive those who use them. So a restore takes the one that is still there if ID and key are those of the
image; otherwise it makes it, with the ID that kernel.*_next_id asks for, and takes it away again when the
restore fails. Copies in PID namespaces have IPC namespaces of their own, or they would share the objects.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from restorer.program import ANY, SLOT, Data, Image, Slot, exactly
from restorer.record import dataclass
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR

CREATE = 0o3000  # IPC_CREAT | IPC_EXCL
RMID, SET, STAT = 0, 1, 2
KEY_AT = 0
PERM_BYTES = 48

_MODE = 0o777
_NONE = (1 << 64) - 1
# The start of struct ipc64_perm on x86-64; IPC_SET takes uid, gid and mode of it.
_PERM = struct.Struct("<iIIIII")


@dataclass(frozen=True)
class Identity:
    """What the kernel knows every object by. `key` is 0 for IPC_PRIVATE, `owner` and `creator` are (uid,
    gid).
    """

    id: int
    key: int
    mode: int
    owner: tuple[int, int]
    creator: tuple[int, int]

    def perm(self) -> bytes:
        """struct ipc64_perm for IPC_SET."""
        return _PERM.pack(self.key, *self.owner, *self.creator, self.mode).ljust(PERM_BYTES, b"\0")


def rows(kind: str) -> Iterator[tuple[Identity, dict[str, int]]]:
    """The objects of our IPC namespace, "shm", "sem" or "msg", each with all that proc(5) shows of it;
    `perms` are all bits of its mode.
    """
    with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
        names, *lines = (line.split() for line in file)
    for words in lines:
        facts = {name: int(word) for name, word in zip(names, words, strict=True) if name != "perms"}
        facts["perms"] = int(words[names.index("perms")], 8)
        yield (
            Identity(
                id=facts[names[1]],
                key=facts["key"],
                mode=facts["perms"] & _MODE,
                owner=(facts["uid"], facts["gid"]),
                creator=(facts["cuid"], facts["cgid"]),
            ),
            facts,
        )


def emit_namespace(image: Image) -> None:
    """Before the first object: with --pid ns an IPC namespace, once."""
    if "ipc" not in image.opened:
        image.opened["ipc"] = image.shared.call(NR.unshare, SLOT.new_ipc)


def emit_free_key(identity: Identity, get: int, image: Image) -> None:
    """Fails when the key leads elsewhere; `get` is semget, shmget or msgget.

    Found out before the ID is asked for: a failing get would leave that to whoever makes the next object.
    """
    if identity.key:
        rest = (0, 0) if get != NR.msgget else (0,)
        image.shared.syscall(get, identity.key, *rest, expect=exactly(-errno.ENOENT))


def emit_next_id(identity: Identity, kind: str, image: Image) -> None:
    """The next object of this kind that the launcher makes gets this ID, if it is free."""
    path, number = f"/proc/sys/kernel/{kind}_next_id", str(identity.id).encode()
    control = Opener(image).open(NR.openat, AT_FDCWD, image.string(path), os.O_WRONLY | os.O_CLOEXEC)
    image.shared.syscall(NR.write, control, image.data(number), len(number), expect=exactly(len(number)))
    image.shared.syscall(NR.close, control)


@contextmanager
def as_creator(identity: Identity, image: Image) -> Iterator[None]:
    """What is made inside has the creator that it had."""
    program = image.shared
    uid, gid = program.call(NR.geteuid), program.call(NR.getegid)
    program.syscall(NR.setresgid, -1, identity.creator[1], -1)
    program.syscall(NR.setresuid, -1, identity.creator[0], -1)
    yield
    program.syscall(NR.setresuid, -1, uid, -1)
    program.syscall(NR.setresgid, -1, gid, -1)


def emit_note(made: Slot, image: Image) -> Data:
    """Where `undo` finds the ID of what was made; -1 while nothing was. At once, before anything can fail."""
    note = image.data(_NONE.to_bytes(8, "little"))
    image.shared.store(note, made)
    return note


def emit_undo(note: Data, control: int, image: Image) -> None:
    """`control` is semctl, shmctl or msgctl."""
    cmd = (0, RMID) if control == NR.semctl else (RMID,)
    image.undo.syscall(control, image.undo.load(note), *cmd, expect=ANY)
