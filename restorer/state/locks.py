# SPDX-License-Identifier: Apache-2.0
"""Locks of files: POSIX (fcntl), of open file descriptions (F_OFD_SETLK), and those of flock(2).

They are taken again, without waiting, once the restored process has its fds: whoever holds one of them then
makes the restore fail. Leases are refused.
"""

from __future__ import annotations

import fcntl
import re
import struct
from dataclasses import dataclass

from restorer.program import Image
from restorer.state.descriptors import Descriptor
from restorer.syscalls import NR

_F_OFD_SETLK = 37
# struct flock: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("<hhxxxxqqixxxx")
_LINE = re.compile(
    r"lock:\s*\d+: (?P<kind>POSIX|OFDLCK|FLOCK) +ADVISORY +(?P<access>READ|WRITE) +"
    r"-?\d+ \S+ (?P<start>\d+) (?P<end>\d+|EOF)"
)
_TAKEN_HINT = "another process holds it now: end that one, then restore again"


@dataclass(frozen=True)
class Lock:
    """One lock, `kind` "POSIX", "OFDLCK" or "FLOCK"; `length_bytes` 0 for all up to the end of the file."""

    kind: str
    write: bool
    start: int
    length_bytes: int


def capture(descriptor: Descriptor) -> tuple[Lock, ...]:
    """Those that were taken by way of the description of this fd, from fdinfo. Raises Refused for leases."""
    found = []
    for line in descriptor.lines:
        if not line.startswith("lock:"):
            continue
        match = _LINE.match(line)
        if match is None:
            what = "a lease" if " LEASE " in line else "a file lock of an unknown kind"
            raise descriptor.refused(
                f"{what} on {descriptor.link} cannot be checkpointed", "release it first"
            )
        start = int(match["start"])
        length_bytes = 0 if match["end"] == "EOF" else int(match["end"]) + 1 - start
        found.append(Lock(match["kind"], match["access"] == "WRITE", start, length_bytes))
    return tuple(found)


def is_shareable(descriptor: Descriptor) -> bool:
    """Whether a lock of it belongs to all who hold the description, other processes included."""
    return any(" FLOCK " in line or " OFDLCK " in line for line in descriptor.lines)


def emit(lock: Lock, number: int, path: str, image: Image) -> None:
    """Takes it by fd `number`; closing any fd of the file would release POSIX locks again (fcntl(2))."""
    with image.about(f"fd {number}: lock of {path}", _TAKEN_HINT):
        if lock.kind == "FLOCK":
            how = fcntl.LOCK_EX if lock.write else fcntl.LOCK_SH
            image.main.syscall(NR.flock, number, how | fcntl.LOCK_NB)
            return
        kind = fcntl.F_WRLCK if lock.write else fcntl.F_RDLCK
        data = image.data(_FLOCK.pack(kind, 0, lock.start, lock.length_bytes, 0))
        command = _F_OFD_SETLK if lock.kind == "OFDLCK" else fcntl.F_SETLK
        image.main.syscall(NR.fcntl, number, command, data)
