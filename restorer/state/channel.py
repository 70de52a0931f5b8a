# SPDX-License-Identifier: Apache-2.0
"""What programs say to the launcher: messages of wire.h on a SOCK_SEQPACKET socket, some of them with an
fd.
"""

from __future__ import annotations

import socket
import struct

from restorer import wire
from restorer.program import SLOT, Image, Program, Slot
from restorer.syscalls import NR

# struct msghdr, struct iovec, struct cmsghdr with one int, on x86-64
_MSGHDR = struct.Struct("<QIIQQQQII")
_IOVEC = struct.Struct("<QQ")
_CMSG = struct.Struct("<QIIII")
_MSG_IOV, _MSG_CONTROL, _CMSG_FD = 16, 32, 16
_CMSG_LEN = 20


def emit_send(
    kind: wire.MessageKind, fd: Slot, image: Image, program: Program, channel: Slot = SLOT.channel
) -> None:
    """Sends a message with a duplicate of `fd` (SCM_RIGHTS)."""
    body = image.data(wire.MESSAGE.pack(kind, 0, 0, 0, 0))
    iov = image.data(_IOVEC.pack(0, wire.MESSAGE.size))
    control = image.data(_CMSG.pack(_CMSG_LEN, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0, 0))
    header = image.data(_MSGHDR.pack(0, 0, 0, 0, 1, 0, _CMSG.size, 0, 0))
    with image.about("the channel to the launcher"):
        program.store(iov, body)
        program.store(control + _CMSG_FD, fd, 4)
        program.store(header + _MSG_IOV, iov)
        program.store(header + _MSG_CONTROL, control)
        program.syscall(NR.sendmsg, channel, header, 0)


def emit_ready(image: Image) -> None:
    """Says that the process waits for go, and closes the channel."""
    with image.about("the channel to the launcher"):
        ready = image.data(wire.MESSAGE.pack(wire.MessageKind.READY, 0, 0, 0, 0))
        image.main.syscall(NR.write, SLOT.channel, ready, wire.MESSAGE.size)
        image.main.syscall(NR.close, SLOT.channel)
