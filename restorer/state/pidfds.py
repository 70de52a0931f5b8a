# SPDX-License-Identifier: Apache-2.0
"""pidfds of processes and threads of the tree, zombies included, and of processes that have been waited for.

For the latter a process is made that ends in the same way at once; its ID is not kept, since no call tells
it. The inode number of a pidfd, by which pidfs tells processes apart, is another after a restore.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping

from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state import procfiles, threads
from restorer.state.descriptors import Descriptor, copied
from restorer.state.opening import Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

# PIDFD_THREAD, PIDFD_NONBLOCK
_FLAGS = os.O_EXCL | os.O_NONBLOCK
LINK = "anon_inode:[pidfd]"

# _IOWR(0xFF, 11, struct pidfd_info), its first version: mask, ..., exit code
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_INFO = struct.Struct("<Q52xi")
_WALL = 0x40000000


@dataclass(frozen=True)
class PidFd:
    """A pidfd; `pid` as the program knows it, of a thread if the flags say so. 0 for one that was waited for,
    and then `status` is that of wait(2).
    """

    pid: int
    status: int
    flags: int
    kind: str = "pidfd"


def capture(tracees: Mapping[int, Tracee], descriptor: Descriptor) -> PidFd:
    """Reads fdinfo; `tracees` are the tree, by pid. Raises Refused for processes outside of it."""
    pid, flags = int(descriptor.info["Pid"]), descriptor.flags & _FLAGS
    if pid == -1:
        with copied(tracees[descriptor.pid], descriptor.number) as copy:
            status = _status(copy)
        if os.WCOREDUMP(status):
            what = "pidfd of a process that has dumped core"
            raise descriptor.refused(f"{what} cannot be checkpointed", "close it first")
        return PidFd(0, status, flags)
    if pid and (own := procfiles.own_id(tracees, pid)):
        return PidFd(own, 0, flags)
    who = f"process {pid}" if pid else "a process of another PID namespace"
    raise descriptor.refused(f"pidfd of {who}, which is not of the tree", "close it first")


def _status(copy: int) -> int:
    """How the process has ended; 0 where the kernel does not tell (before Linux 6.15)."""
    info = bytearray(_INFO.pack(_PIDFD_INFO_EXIT, 0))
    try:
        fcntl.ioctl(copy, _PIDFD_GET_INFO, info)
    except OSError:
        return 0
    mask, status = _INFO.unpack(info)
    return status if mask & _PIDFD_INFO_EXIT else 0


def emit(state: PidFd, home: Image) -> Slot:
    """Opens it in the process, once all others are there."""
    program = home.main
    if state.pid:
        fd = program.call(NR.pidfd_open, state.pid, state.flags)
    else:
        ended = home.helper("one that has ended")
        pid = threads.emit_helper(home, ended)
        threads.emit_end(ended, state.status)
        fd = program.call(NR.pidfd_open, pid, state.flags)
        program.syscall(NR.wait4, pid, 0, _WALL, 0)
    return Opener(home, program).lift(fd)
