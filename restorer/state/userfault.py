# SPDX-License-Identifier: Apache-2.0
"""The userfaultfds that make the memory lazy: made, told what to watch, and shown to the launcher.

They have no state of their own: what they watch follows from the mappings. Shared memory has one to itself:
what the pager must do before it reads an event of that (native/pager/shared_events.c) costs no other; and its
windows one without events.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterable

from restorer import wire
from restorer.program import SLOT, Arg, Image, Segment, Slot
from restorer.record import dataclass
from restorer.state import channel, vmas
from restorer.state.vmas import Vmas
from restorer.syscalls import NR
from restorer.wire import SegmentFlag

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFD_API_VERSION = 0xAA
_REGISTER_MODE_MISSING = 1
_API = struct.Struct("<QQQ")
_REGISTER = struct.Struct("<QQQQ")
_HINT = "`restorer check` says what this kernel or sandbox lacks"


@dataclass(frozen=True)
class Userfaults:
    """Slots of their fds, at or above fd_base; `shared` and `windows` are None where no shared memory comes
    lazily.
    """

    private: Slot
    shared: Slot | None
    windows: Slot | None


def emit(state: Vmas, shared: Iterable[Segment], image: Image) -> Userfaults:
    """Makes them, and registers every lazy VMA and what there is of shared memory."""
    views: list[tuple[int, int]] = []
    windows: list[tuple[int, int]] = []
    for segment in shared:
        spans = windows if segment.flags & SegmentFlag.WINDOW else views
        spans.append((segment.start, segment.end))
    return Userfaults(
        private=_emit_one(vmas.lazy_runs(state), SLOT.uffd_features, image),
        shared=_emit_one(views, SLOT.uffd_features, image) if windows else None,
        windows=_emit_one(windows, 0, image) if windows else None,
    )


def _emit_one(spans: Iterable[tuple[int, int]], features: Arg, image: Image) -> Slot:
    program = image.main
    with image.about("userfaultfd", _HINT):
        low = program.call(SLOT.uffd_nr, SLOT.uffd_arg0, SLOT.uffd_arg1, SLOT.uffd_arg2)
        uffd = program.call(NR.fcntl, low, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
        program.syscall(NR.close, low)
        api = image.data(_API.pack(_UFFD_API_VERSION, 0, 0))
        program.store(api + 8, features)
        program.syscall(NR.ioctl, uffd, _UFFDIO_API, api)
    for start, end in spans:
        with image.about(f"userfaultfd for memory at {start:x}-{end:x}", _HINT):
            register = image.data(_REGISTER.pack(start, end - start, _REGISTER_MODE_MISSING, 0))
            program.syscall(NR.ioctl, uffd, _UFFDIO_REGISTER, register)
    return uffd


def emit_send(uffds: Userfaults, image: Image) -> None:
    """Sends duplicates to the launcher, of those by which the program sees its memory."""
    for uffd in (uffds.private, uffds.shared):
        if uffd is not None:
            channel.emit_send(wire.MessageKind.UFFD, uffd, image, image.main)
