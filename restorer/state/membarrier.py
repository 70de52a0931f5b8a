# SPDX-License-Identifier: Apache-2.0
"""What a process has registered for with membarrier(2): without, its expedited barriers fail with EPERM."""

from __future__ import annotations

import errno

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee

_GET_REGISTRATIONS = 1 << 9
_REGISTER_GLOBAL_EXPEDITED = 1 << 2
# linux/membarrier.h: each barrier, and the command one bit above that registers for it.
_BARRIERS = {1 << 3: "private expedited", 1 << 5: "sync core", 1 << 7: "rseq"}


@dataclass(frozen=True)
class Membarrier:
    """The MEMBARRIER_CMD_REGISTER_* commands, each a bit."""

    registered: int


def capture(tracee: Tracee) -> Membarrier:
    """Asks the process. A kernel before 6.3 is asked by barriers, which do no harm; it does not tell of the
    global one, to be registered for which costs an interrupt now and then.
    """
    try:
        return Membarrier(tracee.syscall(NR.membarrier, _GET_REGISTRATIONS, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return Membarrier(0)
    found = [barrier << 1 for barrier in _BARRIERS if _allowed(tracee, barrier)]
    return Membarrier(sum(found, _REGISTER_GLOBAL_EXPEDITED))


def _allowed(tracee: Tracee, barrier: int) -> bool:
    try:
        tracee.syscall(NR.membarrier, barrier, 0, 0)
    except OSError:
        return False
    return True


def emit(state: Membarrier, image: Image) -> None:
    """Registers, before there are threads or a pager: with several users of the memory the kernel waits for
    an RCU grace period (sync_runqueues_membarrier_state), which takes longer than a restore.
    """
    for bit in range(state.registered.bit_length()):
        command = 1 << bit
        if state.registered & command:
            name = _BARRIERS.get(command >> 1, "global expedited")
            with image.about(f"membarrier: {name}"):
                image.main.syscall(NR.membarrier, command, 0, 0)
