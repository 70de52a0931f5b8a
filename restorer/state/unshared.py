# SPDX-License-Identifier: Apache-2.0
"""Threads with working directory, root directory and umask of their own (unshare(2) with CLONE_FS), as file
servers have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from restorer.errors import Refused
from restorer.native import kcmp
from restorer.program import Image
from restorer.record import dataclass
from restorer.state import cwd, umask
from restorer.state.cwd import Cwd
from restorer.state.umask import Umask
from restorer.syscalls import NR
from restorer.tracee import Tracee

_KCMP_FS = 3
_CLONE_FS = 0x200


@dataclass(frozen=True)
class Own:
    """What thread `index` has for itself."""

    index: int
    cwd: Cwd
    umask: Umask


def capture(tracee: Tracee) -> tuple[Own, ...]:
    """Those that do not share with the leader. Raises Refused for two that share with each other, which only
    a thread that the other one made can.
    """
    found: list[int] = []
    for index, thread in enumerate(tracee.threads):
        if not _share(tracee, index, 0):
            if any(_share(tracee, index, other) for other in found):
                raise Refused(
                    f"thread {thread.tid} shares its working directory with some of the others only"
                )
            found.append(index)
    return tuple(_capture(tracee, index) for index in found)


def _share(tracee: Tracee, index: int, other: int) -> bool:
    return index == other or not kcmp(tracee.threads[index].tid, tracee.threads[other].tid, _KCMP_FS, 0, 0)


def _capture(tracee: Tracee, index: int) -> Own:
    process = tracee.threads[index].process
    return Own(index, cwd.capture(process), umask.capture(process))


def emit(state: Sequence[Own], image: Image) -> None:
    """Takes each out of what the threads share, and puts its own back; the leader may change root after that,
    when no path is to be found any more.
    """
    if not state:
        return
    apart = image.reserve(4)
    for own in state:
        program = image.threads[own.index]
        with image.about(f"thread {own.index} shares no working directory with the others"):
            program.syscall(NR.unshare, _CLONE_FS)
            program.add(apart)
        cwd.emit(own.cwd, program)
        umask.emit(own.umask, program)
    image.main.wait(apart, len(state))
