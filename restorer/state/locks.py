# SPDX-License-Identifier: Apache-2.0
"""Locks of files: POSIX (fcntl), of open file descriptions (F_OFD_SETLK), those of flock(2), and leases.

They are taken again, without waiting, once the restored process has its fds: whoever holds one of them then
makes the restore fail. Leases come last, since any open of the file would break them.
"""

from __future__ import annotations

import fcntl
import re
import struct

from restorer.program import Image
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.syscalls import NR

_F_OFD_SETLK = 37
# struct flock: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("<hhxxxxqqixxxx")
_LINE = re.compile(
    r"lock:\s*\d+: (?P<kind>POSIX|OFDLCK|FLOCK) +ADVISORY +(?P<access>READ|WRITE) +"
    r"(?P<taker>-?\d+) \S+ (?P<start>\d+) (?P<end>\d+|EOF)"
)
_LEASE = re.compile(r"lock:\s*\d+: LEASE +ACTIVE +(?P<access>READ|WRITE) ")
_F_SETLEASE = 1024
_LEASE_HINT = "somebody has the file open now: end that one, then restore again"
_TAKEN_HINT = "another process holds it now: end that one, then restore again"


@dataclass(frozen=True)
class Lock:
    """One lock, `kind` "POSIX", "OFDLCK", "FLOCK" or "LEASE"; `length_bytes` 0 for all up to the end of the
    file. `taker` is the process that F_GETLK tells of, as seen from here; it need not live any more.
    """

    kind: str
    write: bool
    start: int
    length_bytes: int
    taker: int = 0


def capture(descriptor: Descriptor) -> tuple[Lock, ...]:
    """Those that were taken by way of the description of this fd, from fdinfo. Raises Refused for a lease
    that is being broken, and for kinds that are not known.
    """
    return tuple(_parse(descriptor, line) for line in descriptor.lines if line.startswith("lock:"))


def _parse(descriptor: Descriptor, line: str) -> Lock:
    if lease := _LEASE.match(line):
        return Lock("LEASE", lease["access"] == "WRITE", 0, 0)
    match = _LINE.match(line)
    if match is None:
        breaking = " LEASE " in line
        what = "a lease that is being broken" if breaking else "a file lock of an unknown kind"
        hint = "try again in a moment" if breaking else "release it first"
        raise descriptor.refused(f"{what} on {descriptor.link} cannot be checkpointed", hint)
    start = int(match["start"])
    length_bytes = 0 if match["end"] == "EOF" else int(match["end"]) + 1 - start
    taker = int(match["taker"]) if match["kind"] == "POSIX" else 0
    return Lock(match["kind"], match["access"] == "WRITE", start, length_bytes, taker)


def is_shareable(descriptor: Descriptor) -> bool:
    """Whether a lock of it belongs to all who hold the description, other processes included."""
    kinds = (" FLOCK ", " OFDLCK ", " LEASE ")
    return any(kind in line for line in descriptor.lines for kind in kinds)


def emit(lock: Lock, number: int, path: str, image: Image) -> None:
    """Takes it by fd `number`; closing any fd of the file would release POSIX locks again (fcntl(2))."""
    if lock.kind == "LEASE":
        with image.about(f"fd {number}: lease of {path}", _LEASE_HINT):
            kind = fcntl.F_WRLCK if lock.write else fcntl.F_RDLCK
            image.main.syscall(NR.fcntl, number, _F_SETLEASE, kind)
        return
    with image.about(f"fd {number}: lock of {path}", _TAKEN_HINT):
        if lock.kind == "FLOCK":
            how = fcntl.LOCK_EX if lock.write else fcntl.LOCK_SH
            image.main.syscall(NR.flock, number, how | fcntl.LOCK_NB)
            return
        kind = fcntl.F_WRLCK if lock.write else fcntl.F_RDLCK
        data = image.data(_FLOCK.pack(kind, 0, lock.start, lock.length_bytes, 0))
        command = _F_OFD_SETLK if lock.kind == "OFDLCK" else fcntl.F_SETLK
        image.main.syscall(NR.fcntl, number, command, data)
