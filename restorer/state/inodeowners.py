# SPDX-License-Identifier: Apache-2.0
"""Whose a pipe or socket is: fstat(2) tells it, /dev/stdout and its like are opened by it, and firewalls and
policy routing know the sockets of a user by it (sk_uid; sockfs_setattr in net/socket.c).
"""

from __future__ import annotations

import stat

from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.syscalls import NR

_MODES = {stat.S_IFIFO: 0o600, stat.S_IFSOCK: 0o777}


@dataclass(frozen=True)
class InodeOwner:
    """`mode` is None where it is what the kernel gives to a new one."""

    uid: int
    gid: int
    mode: int | None


def capture(descriptor: Descriptor) -> InodeOwner | None:
    """None for what has a name, or no inode of its own."""
    status = descriptor.stat
    usual = _MODES.get(stat.S_IFMT(status.st_mode))
    if usual is None or not descriptor.link.startswith(("pipe:", "socket:")):
        return None
    mode = stat.S_IMODE(status.st_mode)
    return InodeOwner(status.st_uid, status.st_gid, None if mode == usual else mode)


def emit(owner: InodeOwner, fd: Slot, image: Image) -> None:
    """In the launcher, where it is open as `fd`. The mode comes last: a change of owner takes bits away."""
    image.shared.syscall(NR.fchown, fd, owner.uid, owner.gid)
    if owner.mode is not None:
        image.shared.syscall(NR.fchmod, fd, owner.mode)
