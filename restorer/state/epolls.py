# SPDX-License-Identifier: Apache-2.0
"""epoll instances and their interest lists.

Two things differ after a restore, neither of which loses an event: an edge-triggered entry whose file is
ready reports it once more; and a one-shot entry that had fired is watched for errors and hang-ups, as every
entry is when it is added (eventpoll.c, do_epoll_ctl), if its file is ready for nothing at the restore. Where
it is, the entry is made to fire again, which leaves it as it was.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

from restorer.errors import Refused
from restorer.native import ffi, kcmp
from restorer.program import OK, Arg, Image, Slot, ok_or
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.syscalls import NR

_EPOLL_CTL_ADD, _EPOLL_CTL_DEL = 1, 2
_EPOLL_CLOEXEC = 0o2000000
_KCMP_EPOLL_TFD = 7
_ENTRY = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)")


# EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET: all that is left of an entry that has fired
# (EP_PRIVATE_BITS); and all that a file can be ready for.
_PRIVATE, _ONESHOT = 0xF0000000, 1 << 30
_ANYTHING = 0x27DF
_EVENT = struct.Struct("<IQ")


@dataclass(frozen=True)
class Entry:
    """One line of the interest list. `elsewhere`: that fd has been closed since, or is another file, and
    what is watched is the description of that index.
    """

    fd: int
    events: int
    data: int
    elsewhere: int | None = None

    @property
    def has_fired(self) -> bool:
        """It is a one-shot entry that waits for EPOLL_CTL_MOD."""
        return bool(self.events & _ONESHOT) and not self.events & ~_PRIVATE


# (epoll, fd, how many entries of that fd come before) -> the index of the description, None for none
Find: TypeAlias = Callable[[Descriptor, int, int], int | None]


@dataclass(frozen=True)
class Epoll:
    """An epoll instance; `flags` are those of the description."""

    entries: tuple[Entry, ...]
    flags: int
    kind: str = "epoll"

    @property
    def elsewhere(self) -> tuple[Entry, ...]:
        """The entries whose fd is closed, or another file, by now."""
        return tuple(entry for entry in self.entries if entry.elsewhere is not None)


def parse(lines: tuple[str, ...]) -> tuple[Entry, ...]:
    """The interest list from the lines of fdinfo, in the kernel's order."""
    found = (_ENTRY.match(line) for line in lines)
    return tuple(Entry(int(m[1]), int(m[2], 16), int(m[3], 16)) for m in found if m)


def capture(descriptor: Descriptor, numbers: frozenset[int], find: Find) -> Epoll:
    """Reads fdinfo; `find` is for entries whose fd is closed or another file by now. Raises Refused if their
    file is not open anywhere in the tree.
    """
    entries: list[Entry] = []
    seen: Counter[int] = Counter()
    for entry in parse(descriptor.lines):
        offset = seen[entry.fd]
        seen[entry.fd] += 1
        if entry.fd not in numbers or not is_target(descriptor, entry.fd, offset, descriptor):
            elsewhere = find(descriptor, entry.fd, offset)
            if elsewhere is None:
                raise lost(descriptor, entry.fd)
            entries.append(replace(entry, elsewhere=elsewhere))
        else:
            entries.append(entry)
    return Epoll(tuple(entries), descriptor.kept_flags)


def lost(descriptor: Descriptor, fd: int) -> Refused:
    """The exception for an entry whose file the epoll's process cannot get at."""
    return descriptor.refused(
        f"epoll watches a file that was added as fd {fd}, closed or reused since",
        "remove it with EPOLL_CTL_DEL before closing the fd",
    )


def is_target(descriptor: Descriptor, fd: int, offset: int, candidate: Descriptor) -> bool:
    """Whether the `offset`th entry of epoll `descriptor` that was added as `fd` watches the description that
    `candidate` has; for that one's number, `fd` if they are the same descriptor.
    """
    number = fd if candidate is descriptor else candidate.number
    slot = ffi.new("uint32_t[3]", [descriptor.number, fd, offset])
    address = int(ffi.cast("uintptr_t", slot))
    try:
        return kcmp(candidate.pid, descriptor.pid, _KCMP_EPOLL_TFD, number, address) == 0
    except OSError:
        return False


def emit(image: Image, opener: Opener) -> Slot:
    """Makes an empty instance."""
    return opener.open(NR.epoll_create1, _EPOLL_CLOEXEC)


def emit_early(
    epoll: Epoll, fd: Slot, own: Mapping[int, Slot], slots: Callable[[int], Slot], image: Image
) -> dict[Entry, Slot]:
    """Adds to the instance `fd`, before any fd of the process is at its number, the entries that need that.

    One-shot entries that have fired, each with its file at its number for the moment: all that could be ready
    then is what was just added. Afterwards those whose numbers mean something else by now. `own` are the fds
    of the process, `slots` gives any description. Returns for the former whether they have fired, 1 if so.
    """
    fired: dict[Entry, Slot] = {}
    for entry in epoll.entries:
        if entry.has_fired:
            slot = own[entry.fd] if entry.elsewhere is None else slots(entry.elsewhere)
            with _at_its_number(entry, slot, image):
                fired[entry] = _emit_firing(entry, fd, image)
    for entry in epoll.elsewhere:
        assert entry.elsewhere is not None
        with (
            image.main.unless_eq(fired.get(entry, 0), 1),
            _at_its_number(entry, slots(entry.elsewhere), image),
        ):
            _emit_entry(entry, fd, image, frozenset())
    return fired


@contextmanager
def _at_its_number(entry: Entry, slot: Slot, image: Image) -> Iterator[None]:
    image.main.syscall(NR.dup3, slot, entry.fd, os.O_CLOEXEC)
    yield
    image.main.syscall(NR.close, entry.fd)


def _emit_firing(entry: Entry, epoll: Slot, image: Image) -> Slot:
    """Adds the entry so that it fires if its file is ready for anything; the slot is 1 if it has, else it is
    taken out again.
    """
    program, event = image.main, image.data(_EVENT.pack(entry.events | _ANYTHING, entry.data))
    with image.about(f"epoll entry for fd {entry.fd}"):
        program.syscall(NR.epoll_ctl, epoll, _EPOLL_CTL_ADD, entry.fd, event, expect=ok_or(errno.EPERM))
        result = program.call(NR.epoll_wait, epoll, image.reserve(_EVENT.size), 1, 0)
        with program.unless_eq(result, 1):
            program.syscall(NR.epoll_ctl, epoll, _EPOLL_CTL_DEL, entry.fd, 0, expect=ok_or(errno.EPERM))
    return result


def emit_entries(
    epoll: Epoll, number: int, fired: Mapping[Entry, Slot], image: Image, outside: frozenset[int]
) -> None:
    """Fills the instance that is open as `number` in the restored process, once all fds are at their numbers;
    `fired` is what emit_early has returned.

    `outside` are fds that are the restorer's stdio now, which may be something that cannot be watched: a
    regular file or /dev/null, where EPOLL_CTL_ADD says EPERM.
    """
    for entry in epoll.entries:
        if entry.elsewhere is not None:
            continue
        if entry in fired:
            with image.main.unless_eq(fired[entry], 1):
                _emit_entry(entry, number, image, outside)
        else:
            _emit_entry(entry, number, image, outside)


def _emit_entry(entry: Entry, epoll: Arg, image: Image, outside: frozenset[int]) -> None:
    event = image.data(_EVENT.pack(entry.events, entry.data))
    expect = ok_or(errno.EPERM) if entry.fd in outside else OK
    with image.about(f"epoll entry for fd {entry.fd}"):
        image.main.syscall(NR.epoll_ctl, epoll, _EPOLL_CTL_ADD, entry.fd, event, expect=expect)
