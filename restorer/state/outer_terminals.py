# SPDX-License-Identifier: Apache-2.0
"""A terminal whose master is outside of the tree: the one that a shell, an editor or a REPL was run in.

Where a process of the tree leads the session of that terminal, the tree gets a pair of its own, and is a
session as before; `restore` holds the master and copies between it and its own stdio, as script(1) does. To
join the session of `restore` would leave the program without its session, and to take the terminal of
`restore` away from the shell that it runs in (TIOCSCTTY with force) would leave that one without a terminal.

Where the tree is a job of a shell outside, it becomes a job of the shell that `restore` runs in: only there
Ctrl-Z stops it, for a process group whose parent is in another session is an orphaned one. If it had the
terminal, that gets the modes that it had at the checkpoint for as long as the tree has it.

What was typed and not read stays with the terminal that it was typed into.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from restorer import wire
from restorer.errors import ProcessError, Refused
from restorer.program import Data, Image, Slot
from restorer.record import dataclass
from restorer.state import descriptors, terminals
from restorer.state.descriptors import copied
from restorer.state.terminals import Settings
from restorer.tracee import Tracee

DEVICE_MASK = 0xFFFFFFFF
_DEFAULT_MODE, _TTY_GROUP = 0o620, 5


@dataclass(frozen=True)
class Outer:
    """`leader` leads the session of the terminal with this device number, whose master is outside."""

    leader: Tracee
    device: int

    @property
    def index(self) -> int:
        """N of /dev/pts/N, -1 for what is no pseudoterminal."""
        index = terminals.slave_index(self.device)
        return -1 if index is None else index


@dataclass(frozen=True)
class Foreground:
    """The tree was a job that had the terminal: which process (index) was of the group in the foreground."""

    settings: Settings
    process: int


def find(tracees: Collection[Tracee], inside: Collection[int]) -> Outer | None:
    """The terminal of a session that a process of the tree leads; those of sessions `inside` have a master
    in the tree. Raises Refused when there are several.
    """
    found = []
    for tracee in tracees:
        own = tracee.process.stat
        if own.session == tracee.pid and own.tty_nr and tracee.pid not in inside:
            found.append(Outer(tracee, own.tty_nr & DEVICE_MASK))
    if len(found) > 1:
        sessions = " and ".join(f"{one.leader.pid} '{one.leader.process.comm()}'" for one in found)
        raise Refused(
            f"the sessions of processes {sessions} have terminals that are held outside of the tree",
            "checkpoint one of them at a time",
        )
    return found[0] if found else None


@contextmanager
def opened(outer: Outer, tracees: Collection[Tracee]) -> Iterator[int]:
    """The terminal, by an fd of the tree, or by its name. Raises Refused where neither leads to it."""
    holder = _holder(tracees, outer.device)
    if holder:
        with copied(*holder) as copy:
            yield copy
        return
    try:
        fd = os.open(f"/dev/pts/{outer.index}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_found(outer, str(error.strerror)) from None
    try:
        if os.fstat(fd).st_rdev != outer.device:
            raise _not_found(outer, f"/dev/pts/{outer.index} is another one")
        yield fd
    finally:
        os.close(fd)


def _not_found(outer: Outer, why: str) -> Refused:
    return Refused(
        f"the terminal of process {outer.leader.pid} '{outer.leader.process.comm()}' cannot be opened: {why}"
    )


def _holder(tracees: Collection[Tracee], device: int) -> tuple[Tracee, int] | None:
    """Who has the terminal open, and as which fd."""
    for tracee in tracees:
        for number in tracee.process.fds():
            try:
                one = descriptors.read(tracee.pid, number)
            except ProcessError:
                continue
            if terminals.is_terminal(one):
                with copied(tracee, number) as copy:
                    if _device(copy) == device:
                        return tracee, number
    return None


def _device(fd: int) -> int:
    try:
        return terminals.number(fd, terminals.TIOCGDEV) & DEVICE_MASK
    except OSError:
        return 0


def owner(outer: Outer, fd: int) -> tuple[int, int, int]:
    """(uid, gid, mode) of the file of the terminal; where only /dev/tty leads there, those it should have."""
    status = os.fstat(fd)
    if status.st_rdev != outer.device:
        return outer.leader.process.status.uids.effective, _TTY_GROUP, _DEFAULT_MODE
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def foreground_group(outer: Outer, tracees: Collection[Tracee]) -> int:
    """The group in the foreground as the tree knows it; that of the leader where the tree does not."""
    group = outer.leader.process.stat.tpgid
    for tracee in tracees:
        if tracee.process.stat.pgrp == group:
            return int(tracee.process.status.fields["NSpgid"].split()[-1])
    return outer.leader.nspid


def capture_foreground(tracees: Sequence[Tracee]) -> Foreground | None:
    """Of a tree that is a job in a session outside of it: None unless it has the terminal."""
    own = tracees[0].process.stat
    if own.session == tracees[0].pid or not own.tty_nr:
        return None
    groups = [tracee.process.stat.pgrp for tracee in tracees]
    holder = _holder(tracees, own.tty_nr & DEVICE_MASK)
    if own.tpgid not in groups or holder is None:
        return None
    with copied(*holder) as copy:
        return Foreground(terminals.read(copy), groups.index(own.tpgid))


def emit(settings: Settings, process: int, master: Slot | None, image: Image) -> Data:
    """struct wr_terminal, for the launcher: `master` is the slot of the pair that it is to hold."""
    return image.data(
        wire.TERMINAL.pack(
            settings.modes, *settings.window, process, wire.NO_SLOT if master is None else master.index
        )
    )
