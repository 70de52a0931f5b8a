# SPDX-License-Identifier: Apache-2.0
"""The tables of open fds of a tree: which number is which open file description, and what that is."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

from restorer.errors import Refused
from restorer.record import dataclass
from restorer.state import (
    ptys,
)
from restorer.state.anonymous import Anonymous
from restorer.state.contents import Content
from restorer.state.epolls import Epoll
from restorer.state.files import File
from restorer.state.inet import InetSocket
from restorer.state.inodeowners import InodeOwner
from restorer.state.inotify import Inotify
from restorer.state.locks import Lock
from restorer.state.mqueues import Mqueue, MqueueEnd
from restorer.state.netlink import NetlinkSocket
from restorer.state.owners import Owner
from restorer.state.packet import PacketSocket
from restorer.state.pidfds import PidFd
from restorer.state.pipes import Pipe, PipeEnd
from restorer.state.procfiles import ProcFile
from restorer.state.ptys import HungUp, Pty, PtyEnd
from restorer.state.stdio import Stdio
from restorer.state.timerfds import TimerFd
from restorer.state.unixsockets import UnixSocket

Object: TypeAlias = (
    File
    | PipeEnd
    | PtyEnd
    | HungUp
    | MqueueEnd
    | PidFd
    | ProcFile
    | Anonymous
    | InetSocket
    | NetlinkSocket
    | PacketSocket
    | UnixSocket
    | Stdio
)

# What launcher and loader have open of their own, with room to spare.
_FDS_OF_RESTORE = 32

_Kind = TypeVar("_Kind", Epoll, InetSocket, Inotify, TimerFd, UnixSocket)


@dataclass(frozen=True)
class Description:
    """An open file description; `number` is the lowest of its fds in its home."""

    number: int
    object: Object
    owner: Owner | None
    inode_owner: InodeOwner | None = None


@dataclass(frozen=True)
class Fd:
    """One number of the table; `description` is an index. `passing`: only for the time of a restore, since it
    is in flight, and the first process, which sends it, does not have it.
    """

    number: int
    cloexec: bool
    description: int
    passing: bool = False


@dataclass(frozen=True)
class Fds:
    """The table of one process, whose ID is `pid` as the program knows it; descriptions, pipes, queues and
    ptys are those of all its tree. `homes` has for each description the index of the process that is to put
    back what only a holder can. `cwd` is what relative names of unix sockets start from. `locks` are (fd,
    lock): POSIX locks are of a table, taken by one process, others of a description. `sharers` are all who
    have this table; the first of them puts it back (tables.py). `firewall` is the nftables table that
    blocks the tree's TCP connections until a restore, "" for none.
    """

    process: int
    pid: int
    fds: tuple[Fd, ...]
    descriptions: tuple[Description, ...]
    homes: tuple[int, ...]
    pipes: tuple[Pipe, ...]
    mqueues: tuple[Mqueue, ...]
    ptys: tuple[Pty, ...]
    cwd: str
    locks: tuple[tuple[int, Lock], ...]
    firewall: str
    sharers: tuple[int, ...]

    @property
    def is_first(self) -> bool:
        """Whether this process puts the table back."""
        return self.sharers[0] == self.process

    def is_home(self, fd: Fd) -> bool:
        """Whether this process is the one to put back what belongs to the description."""
        return self.homes[fd.description] == self.process


def carried(table: Fds) -> Iterator[Content]:
    """The open files without a name, whose bytes travel in the image."""
    for fd in table.fds:
        state = object_of(table, fd)
        if isinstance(state, File) and state.content is not None and table.is_home(fd):
            yield state.content


def lent(tables: Sequence[Fds]) -> list[int]:
    """The descriptions that a process has to open by itself (contents.emit_open), and others have too."""
    each = (table for table in tables if table.is_first)
    several = Counter(index for table in each for index in {fd.description for fd in table.fds})
    found = tables[0].descriptions
    return [index for index, count in several.items() if count > 1 and is_home_made(found[index].object)]


def first_free(tables: Sequence[Fds]) -> int:
    """The number after the last fd of any process, those that only epoll entries know among them."""
    used = [fd.number for table in tables for fd in table.fds]
    for one in tables[0].descriptions:
        if isinstance(one.object, Epoll):
            used += (entry.fd for entry in one.object.elsewhere)
    return max(used, default=-1) + 1


def check_room(tables: Sequence[Fds], fd_base: int) -> None:
    """Raises Refused where a restore by a user with our limits would find too few numbers above `fd_base`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(tables[0].descriptions) + _FDS_OF_RESTORE
    if hard == resource.RLIM_INFINITY or fd_base + needed <= hard:
        return
    raise Refused(
        f"fd {fd_base - 1} or near it is open, and a restore needs {needed} numbers above it",
        f"raise the hard limit of open files (ulimit -Hn), {hard} now, or close it",
    )


def is_home_made(state: Object) -> bool:
    if isinstance(state, PtyEnd):
        return state.end == ptys.TTY
    if isinstance(state, PidFd | ProcFile):
        return True
    return isinstance(state, File) and state.content is not None


def object_of(table: Fds, fd: Fd) -> Object:
    return table.descriptions[fd.description].object


def about_fd(table: Fds, number: int, description: int) -> str:
    state = table.descriptions[description].object
    if isinstance(state, File | ProcFile):
        return f"fd {number}: {state.path}"
    if isinstance(state, Stdio):
        return f"fd {number}: {state.stream}"
    if isinstance(state, MqueueEnd):
        return f"fd {number}: {table.mqueues[state.queue]}"
    if isinstance(state, PtyEnd):
        return f"fd {number}: {state.end} of {table.ptys[state.pty]}"
    return f"fd {number}: {state.kind}"


def homed(table: Fds) -> list[Fd]:
    """The lowest fd of each description whose home this process is."""
    return list({fd.description: fd for fd in reversed(table.fds) if table.is_home(fd)}.values())


def first_numbers(table: Fds, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
    """The lowest fd of each description of a kind whose home this process is, with its object."""
    found = ((fd.number, object_of(table, fd)) for fd in sorted(homed(table), key=lambda fd: fd.number))
    return [(number, state) for number, state in found if isinstance(state, kind)]
