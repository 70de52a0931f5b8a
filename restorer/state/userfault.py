# SPDX-License-Identifier: Apache-2.0
"""The userfaultfd that makes the memory lazy: made, told what to watch, and shown to the launcher.

It has no state of its own: what it watches follows from the mappings.
"""

from __future__ import annotations

import fcntl
import struct

from restorer import wire
from restorer.program import SLOT, Image, Slot
from restorer.state import channel, vmas
from restorer.state.vmas import Vmas
from restorer.syscalls import NR

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFD_API_VERSION = 0xAA
_REGISTER_MODE_MISSING = 1
_API = struct.Struct("<QQQ")
_REGISTER = struct.Struct("<QQQQ")
_HINT = "`restorer check` says what this kernel or sandbox lacks"


def emit(state: Vmas, image: Image) -> Slot:
    """Makes it and registers every lazy VMA; the slot holds its fd, at or above fd_base."""
    program = image.main
    with image.about("userfaultfd", _HINT):
        low = program.call(SLOT.uffd_nr, SLOT.uffd_arg0, SLOT.uffd_arg1, SLOT.uffd_arg2)
        uffd = program.call(NR.fcntl, low, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
        program.syscall(NR.close, low)
        api = image.data(_API.pack(_UFFD_API_VERSION, 0, 0))
        program.store(api + 8, SLOT.uffd_features)
        program.syscall(NR.ioctl, uffd, _UFFDIO_API, api)
    for start, end in vmas.lazy_runs(state):
        with image.about(f"userfaultfd for memory at {start:x}-{end:x}", _HINT):
            register = image.data(_REGISTER.pack(start, end - start, _REGISTER_MODE_MISSING, 0))
            program.syscall(NR.ioctl, uffd, _UFFDIO_REGISTER, register)
    return uffd


def emit_send(uffd: Slot, image: Image) -> None:
    """Sends a duplicate to the launcher."""
    channel.emit_send(wire.MessageKind.UFFD, uffd, image, image.main)
