# SPDX-License-Identifier: Apache-2.0
"""The userfaultfd that makes the memory lazy: made, told what to watch, and shown to the launcher.

It has no state of its own: what it watches follows from the mappings.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from restorer import wire
from restorer.program import SLOT, Image, Slot
from restorer.state import vmas
from restorer.state.vmas import Vmas
from restorer.syscalls import NR

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFD_API_VERSION = 0xAA
_REGISTER_MODE_MISSING = 1
_API = struct.Struct("<QQQ")
_REGISTER = struct.Struct("<QQQQ")
# struct msghdr, struct iovec, struct cmsghdr with one int, on x86-64
_MSGHDR = struct.Struct("<QIIQQQQII")
_IOVEC = struct.Struct("<QQ")
_CMSG = struct.Struct("<QIIII")
_MSG_IOV, _MSG_CONTROL, _CMSG_FD = 16, 32, 16
_CMSG_LEN = 20
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
    """Sends a duplicate to the launcher, as SCM_RIGHTS of a WR_MESSAGE_UFFD."""
    program = image.main
    body = image.data(wire.MESSAGE.pack(wire.MessageKind.UFFD, 0, 0, 0, 0))
    iov = image.data(_IOVEC.pack(0, wire.MESSAGE.size))
    control = image.data(_CMSG.pack(_CMSG_LEN, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0, 0))
    header = image.data(_MSGHDR.pack(0, 0, 0, 0, 1, 0, _CMSG.size, 0, 0))
    with image.about("the channel to the launcher"):
        program.store(iov, body)
        program.store(control + _CMSG_FD, uffd, 4)
        program.store(header + _MSG_IOV, iov)
        program.store(header + _MSG_CONTROL, control)
        program.syscall(NR.sendmsg, SLOT.channel, header, 0)
