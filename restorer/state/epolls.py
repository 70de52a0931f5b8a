# SPDX-License-Identifier: Apache-2.0
"""epoll instances and their interest lists.

Two things differ after a restore, neither of which loses an event: an edge-triggered entry whose file is
ready reports it once more, and a one-shot entry that had fired is watched for errors and hang-ups, as every
entry is when it is added (eventpoll.c, do_epoll_ctl).
"""

from __future__ import annotations

import errno
import re
import struct
from collections import Counter
from dataclasses import dataclass

from restorer.native import ffi, kcmp
from restorer.program import OK, Image, Slot, ok_or
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.syscalls import NR

_EPOLL_CTL_ADD = 1
_EPOLL_CLOEXEC = 0o2000000
_KCMP_EPOLL_TFD = 7
_ENTRY = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)")


@dataclass(frozen=True)
class Entry:
    """One line of the interest list."""

    fd: int
    events: int
    data: int


@dataclass(frozen=True)
class Epoll:
    """An epoll instance; `flags` are those of the description."""

    entries: tuple[Entry, ...]
    flags: int
    kind: str = "epoll"


def parse(lines: tuple[str, ...]) -> tuple[Entry, ...]:
    """The interest list from the lines of fdinfo, in the kernel's order."""
    found = (_ENTRY.match(line) for line in lines)
    return tuple(Entry(int(m[1]), int(m[2], 16), int(m[3], 16)) for m in found if m)


def capture(descriptor: Descriptor, numbers: frozenset[int]) -> Epoll:
    """Reads fdinfo. Raises Refused if the file of an entry is no longer open as the fd it was added by."""
    entries = parse(descriptor.lines)
    seen: Counter[int] = Counter()
    for entry in entries:
        offset = seen[entry.fd]
        seen[entry.fd] += 1
        if entry.fd not in numbers or not _is_target(descriptor, entry.fd, offset):
            raise descriptor.refused(
                f"epoll watches a file that was added as fd {entry.fd}, closed or reused since",
                "remove it with EPOLL_CTL_DEL before closing the fd",
            )
    return Epoll(entries, descriptor.kept_flags)


def _is_target(descriptor: Descriptor, fd: int, offset: int) -> bool:
    """Whether the `offset`th entry added as `fd` watches what `fd` is today."""
    slot = ffi.new("uint32_t[3]", [descriptor.number, fd, offset])
    address = int(ffi.cast("uintptr_t", slot))
    return kcmp(descriptor.pid, descriptor.pid, _KCMP_EPOLL_TFD, fd, address) == 0


def emit(image: Image, opener: Opener) -> Slot:
    """Makes an empty instance."""
    return opener.open(NR.epoll_create1, _EPOLL_CLOEXEC)


def emit_entries(epoll: Epoll, number: int, image: Image, outside: frozenset[int]) -> None:
    """Fills the instance that is open as `number` in the restored process, once all fds are at their numbers.

    `outside` are fds that are the restorer's stdio now, which may be something that cannot be watched: a
    regular file or /dev/null, where EPOLL_CTL_ADD says EPERM.
    """
    for entry in epoll.entries:
        event = image.data(struct.pack("<IQ", entry.events, entry.data))
        expect = ok_or(errno.EPERM) if entry.fd in outside else OK
        with image.about(f"fd {number}: epoll entry for fd {entry.fd}"):
            image.main.syscall(NR.epoll_ctl, number, _EPOLL_CTL_ADD, entry.fd, event, expect=expect)
