# SPDX-License-Identifier: Apache-2.0
"""inotify instances: their watches, under the same numbers.

fdinfo names a watched inode by device and number; inodes.py finds a path to it. Events that were not read can
be neither looked at nor put back: there must be none, or they may be lost. What happens to the files between
checkpoint and restore is told to nobody.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import struct
import termios
from collections.abc import Iterator, Sequence

from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state import files
from restorer.state.choices import Choices
from restorer.state.descriptors import Descriptor, copied
from restorer.state.inodes import Finder, Inode
from restorer.state.opening import Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

LINK = "anon_inode:inotify"

_IN_DONT_FOLLOW = 0x02000000
# _IOW('I', 0, __s32)
_INOTIFY_IOC_SETNEXTWD = 0x40044900
# Numbers go up for ever (idr_alloc_cyclic), so that what a program has noted about a watch that is gone does
# not come to mean another. How far they have come cannot be seen: a restored instance leaves so many out.
_UNUSED, _WD_MAX = 1 << 16, (1 << 31) - 1
_LINE = re.compile(
    r"inotify wd:(?P<wd>[0-9a-f]+) ino:(?P<ino>[0-9a-f]+) sdev:(?P<dev>[0-9a-f]+) mask:(?P<mask>[0-9a-f]+) "
    r"ignored_mask:\w+ ?(?:fhandle-bytes:(?P<bytes>[0-9a-f]+) fhandle-type:(?P<type>[0-9a-f]+) "
    r"f_handle:(?P<handle>[0-9a-f]+))?"
)
_HANDLE = struct.Struct("<II")
_HINT = "make it again; where watches are too many, raise fs.inotify.max_user_watches"


@dataclass(frozen=True)
class Watch:
    """One watch; `path` is empty for a file without a name, which the process has open as `fd` (else -1)."""

    wd: int
    mask: int
    path: str
    fd: int


@dataclass(frozen=True)
class Inotify:
    """An instance, its watches by number; `flags` are those of the description."""

    watches: tuple[Watch, ...]
    flags: int
    kind: str = "inotify"


def capture(tracee: Tracee, descriptor: Descriptor, found: Sequence[Descriptor], choices: Choices) -> Inotify:
    """Describes it; `found` are the fds of all of the tree. Raises Refused for events that were not read,
    unless they may be lost, and for a watch of something that no path leads to.
    """
    with copied(tracee, descriptor.number) as copy:
        queued = _queued_bytes(copy)
        if queued and not choices.skip_in_flight:
            raise descriptor.refused(
                f"inotify has {queued} bytes of events that were not read, which cannot be looked at",
                "try again in a moment, or see --skip-in-flight",
            )
    own = [one for one in found if one.pid == tracee.pid]
    finder = Finder([tracee.process.cwd(), *(one.link for one in own)])
    watches = [_watch(descriptor, finder, line, own) for line in parse(descriptor.lines)]
    return Inotify(tuple(sorted(watches, key=lambda watch: watch.wd)), descriptor.kept_flags)


def parse(lines: Sequence[str]) -> Iterator[tuple[int, int, Inode]]:
    """(wd, mask, inode) of each watch, from fdinfo."""
    for line in lines:
        match = _LINE.match(line)
        if match:
            handle = b""
            if match["handle"]:
                handle = _HANDLE.pack(int(match["bytes"], 16), int(match["type"], 16))
                handle += bytes.fromhex(match["handle"])
            inode = Inode(int(match["dev"], 16), int(match["ino"], 16), handle)
            yield int(match["wd"], 16), int(match["mask"], 16), inode


def _queued_bytes(copy: int) -> int:
    queued = array.array("i", [0])
    fcntl.ioctl(copy, termios.FIONREAD, queued)
    return queued[0]


def _watch(
    descriptor: Descriptor, finder: Finder, line: tuple[int, int, Inode], own: Sequence[Descriptor]
) -> Watch:
    wd, mask, inode = line
    for one in own:
        link = f"/proc/{one.pid}/fd/{one.number}"
        if files.has_no_name(one) and finder.leads_to(link, inode, follow=True):
            return Watch(wd, mask, "", one.number)
    path = finder.path(inode)
    if path:
        return Watch(wd, mask, path, -1)
    raise descriptor.refused(
        f"inotify watches inode {inode.number} of device {inode.device}, "
        "to which no path was found: it has been deleted, or is hidden by a mount",
        "remove that watch, or run as root",
    )


def emit(state: Inotify, opener: Opener) -> Slot:
    """Makes an instance without watches."""
    return opener.open(NR.inotify_init1, (state.flags & os.O_NONBLOCK) | os.O_CLOEXEC)


def emit_watches(state: Inotify, number: int, image: Image) -> None:
    """Adds the watches to the one that is open as `number`, once no process of the tree opens files any more:
    what a restore does to them is no event.
    """
    next_wd = 1
    for watch in state.watches:
        where = watch.path or f"the file open as fd {watch.fd}"
        with image.about(f"fd {number}: inotify watch {watch.wd} of {where}", _HINT):
            if watch.wd != next_wd:
                image.main.syscall(NR.ioctl, number, _INOTIFY_IOC_SETNEXTWD, watch.wd)
            # A path found by inodes.py ends in the watched file itself, also when that is a symbolic link.
            mask = watch.mask | _IN_DONT_FOLLOW if watch.path else watch.mask
            path = image.string(watch.path or f"/proc/self/fd/{watch.fd}")
            image.main.syscall(NR.inotify_add_watch, number, path, mask, expect=exactly(watch.wd))
        next_wd = watch.wd + 1
    if state.watches:
        beyond = next_wd + _UNUSED
        image.main.syscall(NR.ioctl, number, _INOTIFY_IOC_SETNEXTWD, beyond if beyond <= _WD_MAX else 1)
