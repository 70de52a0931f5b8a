# SPDX-License-Identifier: Apache-2.0
"""Who gets SIGIO, or the signal in its place, when something happens to an open file (fcntl(2), F_SETOWN)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Mapping

from restorer.program import Image
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor, Source, copied
from restorer.syscalls import NR
from restorer.tracee import Tracee

_F_SETOWN_EX, _F_GETOWN_EX, _F_SETSIG, _F_GETSIG = 15, 16, 10, 11
_F_OWNER_TID, _F_OWNER_PID, _F_OWNER_PGRP = 0, 1, 2
_OWNER = struct.Struct("<ii")


@dataclass(frozen=True)
class Owner:
    """Who gets SIGIO (F_SETOWN_EX): `pid` as the program knows it; `signal` 0 for SIGIO itself."""

    type: int
    pid: int
    signal: int
    enabled: bool


def capture(tracees: Mapping[int, Tracee], source: Source, descriptor: Descriptor) -> Owner | None:
    """Reads it from a duplicate; None where nothing is set. `tracees` are the tree, by pid. Raises Refused
    for an owner outside of it, and for a directory, of which nothing shows what its owner is told.
    """
    with copied(source, descriptor.number) as copy:
        try:
            kind, pid = _OWNER.unpack(fcntl.fcntl(copy, _F_GETOWN_EX, bytes(_OWNER.size)))
        except OSError:
            return None
        signal = fcntl.fcntl(copy, _F_GETSIG)
    enabled = bool(descriptor.flags & os.O_ASYNC)
    if not pid:
        return Owner(_F_OWNER_PID, 0, signal, enabled) if signal or enabled else None
    if stat.S_ISDIR(descriptor.stat.st_mode):
        # F_NOTIFY sets it (fcntl_dirnotify).
        what = f"{descriptor.link} is watched by dnotify (F_NOTIFY)"
        raise descriptor.refused(f"{what}, which cannot be read", "close it first")
    return Owner(kind, _own_id(tracees, descriptor, kind, pid), signal, enabled)


def _own_id(tracees: Mapping[int, Tracee], descriptor: Descriptor, kind: int, pid: int) -> int:
    if kind == _F_OWNER_TID:
        for thread in (thread for tracee in tracees.values() for thread in tracee.threads):
            if thread.tid == pid:
                return thread.nstid
    elif pid in tracees:
        tracee = tracees[pid]
        if kind != _F_OWNER_PGRP or tracee.process.stat.pgrp == pid:
            return tracee.nspid
    raise descriptor.refused(
        f"signals of {descriptor.link} go to process {pid} (F_SETOWN)", "take that back first"
    )


def emit(owner: Owner, number: int, flags: int, image: Image) -> None:
    """Sets it for the description that is open as `number`; `flags` are the description's without O_ASYNC."""
    image.main.syscall(NR.fcntl, number, _F_SETSIG, owner.signal)
    if owner.pid:
        data = image.data(_OWNER.pack(owner.type, owner.pid))
        image.main.syscall(NR.fcntl, number, _F_SETOWN_EX, data)
    if owner.enabled:
        image.main.syscall(NR.fcntl, number, fcntl.F_SETFL, flags | os.O_ASYNC)
