# SPDX-License-Identifier: Apache-2.0
"""Pseudoterminals whose master is held in the tree: script, tmux, a terminal emulator with the shell in it.

A pair comes back with its number, since programs remember the name of their terminal. The kernel gives out
the lowest free number, so the launcher makes pairs until it has all that the image needs; each goes to an fd
that is its number plus a constant, so that no op has to choose. Pairs are made before any other description,
and before the tree, whose session leaders take their slaves for controlling terminals.

A slave whose master has gone is hung up for good: any number serves. So it does for the pair that takes the
place of a terminal outside, see outer_terminals.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from restorer.errors import ProcessError, Refused
from restorer.native import kcmp
from restorer.procfs import Process
from restorer.program import ANY, Image, Slot
from restorer.record import dataclass
from restorer.state import holders, outer_terminals, ptyqueues, terminals
from restorer.state.descriptors import KCMP_FILE, Descriptor, copied
from restorer.state.holders import Holder
from restorer.state.opening import AT_FDCWD, Opener
from restorer.state.outer_terminals import DEVICE_MASK, Outer
from restorer.state.ptyqueues import Queues
from restorer.state.terminals import Settings
from restorer.syscalls import NR
from restorer.tracee import Tracee

MASTER, SLAVE, TTY = "master", "slave", "/dev/tty"
PTMX = "/dev/ptmx"

_Key: TypeAlias = tuple[int, int]
"""(device of the devpts, number)"""

_UNLOCKED = array.array("i", [0]).tobytes()
_OWN_SLAVE = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
# Of the fds that a launcher has open when pairs are made, at most these lie at or above fd_base.
_FDS_OF_LAUNCHER, _FDS_OF_PROCESS = 64, 4


@dataclass(frozen=True)
class Pty:
    """A pair. `ptmx` is the path its master was opened by. `slave`: "new" when nobody has opened it ever,
    else "open" or "closed". `owner` is (uid, gid, mode) of its file. `session` is the ID of the session that
    has it for a controlling terminal, `foreground` the process group that it talks to; 0 for none. `outer`:
    the master is held outside of the tree, and by restore after.
    """

    index: int
    ptmx: str
    slave: str
    settings: Settings
    queues: Queues
    owner: tuple[int, int, int]
    packets: bool
    locked: bool
    exclusive: bool
    session: int
    foreground: int
    outer: bool = False

    def __str__(self) -> str:
        return f"terminal {_folder(self.ptmx)}/{self.index}"

    def key(self, end: str) -> tuple[str, str, int, bool]:
        """Under which `image.opened` knows one of its ends."""
        return end, self.ptmx, self.index, self.outer


@dataclass(frozen=True)
class PtyEnd:
    """A description of one: `end` is "master", "slave" or "/dev/tty", `flags` those of F_GETFL."""

    pty: int
    end: str
    flags: int
    kind: str = "terminal"


@dataclass(frozen=True)
class HungUp:
    """A slave whose master has gone, or that was hung up."""

    flags: int
    link: str
    kind: str = "terminal that was hung up"


class Ptys:
    """The pairs of a tree: those whose master is one of its fds, `found`. Must be made while this process has
    no duplicates of those.
    """

    def __init__(self, tracees: Mapping[int, Tracee], found: Sequence[Descriptor]) -> None:
        self.captured: list[Pty] = []
        self._tracees = tracees
        self._found = found
        self._indices: dict[_Key, int] = {}
        self._masters = {_key_of_master(one): one for one in found if terminals.is_master(one)}
        links = frozenset(link for one in self._masters.values() for link in (one.link, _link(one)))
        self._holders = holders.find(tracees, links)
        self._devices = {
            (one.pid, one.number): self._ask_device(one) for one in found if terminals.is_terminal(one)
        }
        self._outer = outer_terminals.find(tracees.values(), self._sessions_inside())
        self._outer_index: int | None = None

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the fd is one end of a pair of the tree, or a slave that was hung up."""
        if terminals.is_master(descriptor):
            return True
        return terminals.is_terminal(descriptor) and (
            self._key(descriptor) in self._masters
            or self._is_hung_up(descriptor)
            or self._is_outer(descriptor)
        )

    def capture_outer(self) -> int | None:
        """The pair for the terminal outside of which the tree leads the session, if any: its index."""
        if self._outer is not None and self._outer_index is None:
            self._outer_index = len(self.captured)
            self.captured.append(_outer_pty(self._outer, self._tracees))
        return self._outer_index

    def capture(self, descriptor: Descriptor) -> PtyEnd | HungUp:
        """An fd of which `has` is true. Raises Refused when the pair cannot be restored."""
        if terminals.is_master(descriptor):
            return PtyEnd(self._pair(_key_of_master(descriptor)), MASTER, descriptor.kept_flags)
        if self._is_hung_up(descriptor):
            return HungUp(descriptor.kept_flags, descriptor.link)
        end = TTY if terminals.is_tty(descriptor) else SLAVE
        outer = self.capture_outer() if self._is_outer(descriptor) else None
        index = self._pair(self._key(descriptor)) if outer is None else outer
        own = self._tracees[descriptor.pid].process.stat.tty_nr & DEVICE_MASK
        if end == TTY and own != self._device(descriptor):
            raise descriptor.refused("/dev/tty was opened for a terminal that is its holder's no more")
        return PtyEnd(index, end, descriptor.kept_flags)

    def _pair(self, key: _Key) -> int:
        if key not in self._indices:
            master = self._masters[key]
            self._refuse_holders(master)
            slaves = [one for one in self._found if self._is_slave(one, key)]
            pty = _Capture(self._tracees, master, slaves).pty()
            self._indices[key] = len(self.captured)
            self.captured.append(pty)
        return self._indices[key]

    def _sessions_inside(self) -> set[int]:
        """Those that have a terminal whose master is in the tree."""
        found = set()
        for master in self._masters.values():
            with copied(self._tracees[master.pid], master.number) as copy, suppress(OSError):
                found.add(terminals.number(copy, terminals.TIOCGSID))
        return found

    def _is_outer(self, descriptor: Descriptor) -> bool:
        if self._outer is None or self._device(descriptor) != self._outer.device:
            return False
        if terminals.is_tty(descriptor):
            session = self._tracees[descriptor.pid].process.stat.session
            return session == self._outer.leader.pid
        return self._key(descriptor) not in self._masters

    def _is_slave(self, descriptor: Descriptor, key: _Key) -> bool:
        live = terminals.is_terminal(descriptor) and not self._is_hung_up(descriptor)
        return live and self._key(descriptor) == key

    def _refuse_holders(self, master: Descriptor) -> None:
        """Raises Refused when another process holds one of the ends."""
        slave = os.stat(_link(master))
        for holder in (*self._holders[master.link], *self._holders[_link(master)]):
            try:
                found = os.stat(f"/proc/{holder.pid}/fd/{holder.fd}")
            except OSError:
                continue
            if _is_same(master, holder) or os.path.samestat(found, slave):
                raise master.refused(
                    f"terminal {_link(master)} is shared with {holder}, which is not of the tree",
                    "end that one first, or checkpoint a process above both",
                )

    def _key(self, descriptor: Descriptor) -> _Key:
        """Of the pair that a slave is of; (0, device) of other terminals."""
        if not terminals.is_tty(descriptor):
            index = terminals.slave_index(descriptor.stat.st_rdev)
            return (0, descriptor.stat.st_rdev) if index is None else (descriptor.stat.st_dev, index)
        index = terminals.slave_index(self._device(descriptor))
        same = (key for key in self._masters if key[1] == index)
        return next(same, (0, self._device(descriptor)))

    def _device(self, descriptor: Descriptor) -> int:
        """Of the terminal behind the fd, 0 when it was hung up."""
        return self._devices[descriptor.pid, descriptor.number]

    def _ask_device(self, descriptor: Descriptor) -> int:
        with copied(self._tracees[descriptor.pid], descriptor.number) as copy:
            try:
                return terminals.number(copy, terminals.TIOCGDEV) & DEVICE_MASK
            except OSError:
                return 0

    def _is_hung_up(self, descriptor: Descriptor) -> bool:
        return self._device(descriptor) == 0


def _is_same(descriptor: Descriptor, holder: Holder) -> bool:
    try:
        return kcmp(descriptor.pid, holder.pid, KCMP_FILE, descriptor.number, holder.fd) == 0
    except OSError:
        return False


def _link(master: Descriptor) -> str:
    """The path of its slave."""
    return f"{_folder(master.link)}/{master.info['tty-index']}"


def _key_of_master(descriptor: Descriptor) -> _Key:
    return os.stat(_folder(descriptor.link)).st_dev, int(descriptor.info["tty-index"])


def _folder(ptmx: str) -> str:
    """Where the slaves of a master are: in `pts` beside its node, unless that is in a devpts itself
    (devpts_mntget).
    """
    folder = os.path.dirname(ptmx)
    beside = f"{folder}/pts"
    return beside if os.path.isdir(beside) else folder


class _Capture:
    """Of one pair, by its master and the fds of its slave."""

    def __init__(self, tracees: Mapping[int, Tracee], master: Descriptor, slaves: list[Descriptor]) -> None:
        self.tracees = tracees
        self.master = master
        self.slaves = slaves
        self.link = _link(master)

    def pty(self) -> Pty:
        with copied(self.tracees[self.master.pid], self.master.number) as copy:
            session, foreground = self._session(copy)
            hung_up = _poll(copy) & select.POLLHUP
            if not self.slaves and not hung_up and not session:
                return self._describe(copy, "new", ptyqueues.EMPTY, 0, 0)
            self._check(copy)
            with self._own_slave(copy) as slave:
                queues = self._queues(copy, slave)
            return self._describe(copy, "open" if self.slaves else "closed", queues, session, foreground)

    def _describe(self, copy: int, slave: str, queues: Queues, session: int, foreground: int) -> Pty:
        status = os.stat(self.link)
        return Pty(
            index=terminals.number(copy, terminals.TIOCGPTN),
            ptmx=self.master.link,
            slave=slave,
            settings=terminals.read(copy),
            queues=queues,
            owner=(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)),
            packets=bool(terminals.number(copy, terminals.TIOCGPKT)),
            locked=bool(terminals.number(copy, terminals.TIOCGPTLCK)),
            exclusive=self._is_exclusive(),
            session=session,
            foreground=foreground,
        )

    def _is_exclusive(self) -> bool:
        for slave in self.slaves[:1]:
            with copied(self.tracees[slave.pid], slave.number) as copy:
                return bool(terminals.number(copy, terminals.TIOCGEXCL))
        return False

    def _check(self, copy: int) -> None:
        ends = [(self.master, terminals.number(copy, terminals.TIOCGETD))]
        for slave in self.slaves[:1]:
            with copied(self.tracees[slave.pid], slave.number) as own:
                ends.append((slave, terminals.number(own, terminals.TIOCGETD)))
        for end, discipline in ends:
            if discipline != terminals.N_TTY:
                raise end.refused(f"line discipline {discipline} of {self.link}", "set it back to 0 first")
        if _poll(copy) & select.POLLPRI and terminals.number(copy, terminals.TIOCGPKT):
            raise self.master.refused(f"a status of packet mode of {self.link} was not read yet", "try again")

    @contextmanager
    def _own_slave(self, copy: int) -> Iterator[int]:
        """An fd of our own; one more changes nothing, and where there is none, closing it is as if it had
        never been.
        """
        locked = terminals.number(copy, terminals.TIOCGPTLCK)
        fcntl.ioctl(copy, terminals.TIOCSPTLCK, _UNLOCKED)
        try:
            slave = fcntl.ioctl(copy, terminals.TIOCGPTPEER, _OWN_SLAVE)
        finally:
            fcntl.ioctl(copy, terminals.TIOCSPTLCK, array.array("i", [locked]))
        try:
            yield slave
        finally:
            os.close(slave)

    def _queues(self, copy: int, slave: int) -> Queues:
        settings = terminals.read(copy)
        if ptyqueues.input_bytes(slave) <= ptyqueues.INPUT_BYTES_MAX:
            queues = ptyqueues.capture(copy, slave, settings)
            if len(queues.typed) <= ptyqueues.INPUT_BYTES_MAX:
                return queues
        raise self.master.refused(
            f"more than {ptyqueues.INPUT_BYTES_MAX} bytes were typed into {self.link} and not read yet",
            "try again once they are",
        )

    def _session(self, copy: int) -> tuple[int, int]:
        """Session and foreground group, as the tree knows them."""
        try:
            session = terminals.number(copy, terminals.TIOCGSID)
        except OSError:
            return 0, 0
        if session not in self.tracees:
            raise self.master.refused(
                f"{self.link} is the controlling terminal of session {session}, which is not of the tree",
                "checkpoint a process above both",
            )
        self._refuse_others(session)
        leader = self.tracees[session].nspid
        group = terminals.number(copy, terminals.TIOCGPGRP)
        for tracee in self.tracees.values():
            if tracee.process.stat.pgrp == group:
                return leader, int(tracee.process.status.fields["NSpgid"].split()[-1])
        # Of a group that has ended nothing is left but its number.
        return leader, leader

    def _refuse_others(self, session: int) -> None:
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in self.tracees:
                try:
                    found = Process(int(entry)).stat
                except (ProcessError, OSError):
                    continue
                if found.session == session and found.tty_nr and found.state not in "ZX":
                    raise self.master.refused(
                        f"{self.link} is also the terminal of process {entry} '{found.comm}', which is not "
                        "of the tree",
                        "end that one first",
                    )


def _outer_pty(outer: Outer, tracees: Mapping[int, Tracee]) -> Pty:
    with outer_terminals.opened(outer, tracees.values()) as fd:
        discipline = terminals.number(fd, terminals.TIOCGETD)
        if discipline != terminals.N_TTY:
            raise Refused(f"process {outer.leader.pid}: line discipline {discipline} of its terminal")
        return Pty(
            index=outer.index,
            ptmx=PTMX,
            slave="open",
            settings=terminals.read(fd),
            queues=ptyqueues.EMPTY,
            owner=outer_terminals.owner(outer, fd),
            packets=False,
            locked=False,
            exclusive=bool(terminals.number(fd, terminals.TIOCGEXCL)),
            session=outer.leader.nspid,
            foreground=outer_terminals.foreground_group(outer, tracees.values()),
            outer=True,
        )


def _poll(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    return next((events for _, events in poll.poll(0)), 0)


def emit_pairs(ptys: Sequence[Pty], image: Image) -> None:
    """Makes all pairs and what is in them, before anything else is opened; `image.opened` has their fds."""
    numbered = [pty for pty in ptys if not pty.outer]
    for ptmx in sorted({pty.ptmx for pty in numbered}):
        _emit_numbered([pty for pty in numbered if pty.ptmx == ptmx], ptmx, image)
    for pty in ptys:
        if pty.outer:
            with image.about(str(pty)):
                image.opened[pty.key(MASTER)] = Opener(image).open(
                    NR.openat, AT_FDCWD, image.string(PTMX), _OWN_SLAVE
                )
    for pty in ptys:
        with image.about(str(pty)):
            _emit_pair(pty, image)


def _emit_numbered(ptys: Sequence[Pty], ptmx: str, image: Image) -> None:
    shared, number, low = image.shared, image.reserve(4), image.slot()
    far = image.fd_base + _FDS_OF_LAUNCHER + _FDS_OF_PROCESS * image.processes
    with image.about(f"the terminals of {ptmx}"):
        for _ in range(max(pty.index for pty in ptys) + 1):
            flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
            shared.syscall(NR.openat, AT_FDCWD, image.string(ptmx), flags, result=low)
            shared.syscall(NR.ioctl, low, terminals.TIOCGPTN, number)
            index = shared.load(number, 4, result=image.spare)
            # One that is not needed may lie above the limit of open files.
            shared.syscall(NR.dup3, low, index + far, os.O_CLOEXEC, expect=ANY)
            shared.syscall(NR.close, low)
    for pty in ptys:
        with image.about(
            str(pty), "its number is taken: end who has it (lsof or fuser tell), then try again"
        ):
            slot = shared.call(NR.fcntl, far + pty.index, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
            image.opened[pty.key(MASTER)] = slot
    shared.syscall(NR.close_range, far, 0xFFFFFFFF, 0)


def _emit_pair(pty: Pty, image: Image) -> None:
    shared, opener = image.shared, Opener(image)
    master = image.opened[pty.key(MASTER)]
    shared.syscall(NR.ioctl, master, terminals.TIOCSPTLCK, opener.int32(0))
    terminals.emit_window(pty.settings, master, image)
    if pty.slave == "new":
        shared.syscall(NR.ioctl, master, terminals.TCSETS2, image.data(pty.settings.modes))
    else:
        slave = opener.open(NR.ioctl, master, terminals.TIOCGPTPEER, _OWN_SLAVE)
        image.opened[pty.key(SLAVE)] = slave
        uid, gid, mode = pty.owner
        shared.syscall(NR.fchown, slave, uid, gid)
        shared.syscall(NR.fchmod, slave, mode)
        ptyqueues.emit(pty.queues, pty.settings, (master, slave), image)
    if pty.packets:
        shared.syscall(NR.ioctl, master, terminals.TIOCPKT, opener.int32(1))


def emit_end(end: PtyEnd, pty: Pty, image: Image, opener: Opener) -> Slot:
    """A description of the pair: an fd of the launcher."""
    master = image.opened[pty.key(MASTER)]
    if end.end == MASTER:
        image.shared.syscall(NR.fcntl, master, fcntl.F_SETFL, end.flags)
        return master
    return opener.open(NR.ioctl, master, terminals.TIOCGPTPEER, end.flags | os.O_NOCTTY | os.O_CLOEXEC)


def emit_tty(end: PtyEnd, image: Image) -> Slot:
    """/dev/tty, by the process itself: what it means depends on who opens it."""
    flags = end.flags | os.O_NOCTTY | os.O_CLOEXEC
    return Opener(image, image.main).open(NR.openat, AT_FDCWD, image.string(TTY), flags)


def emit_hung_up(state: HungUp, image: Image, opener: Opener) -> Slot:
    """A slave that loses its master at once."""
    master = opener.open(NR.openat, AT_FDCWD, image.string(PTMX), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    image.shared.syscall(NR.ioctl, master, terminals.TIOCSPTLCK, opener.int32(0))
    slave = opener.open(NR.ioctl, master, terminals.TIOCGPTPEER, state.flags | os.O_NOCTTY | os.O_CLOEXEC)
    opener.close(master)
    return slave


def emit_finish(ptys: Sequence[Pty], image: Image, opener: Opener) -> None:
    """What would keep the slave from being opened; after all descriptions are there."""
    for pty in ptys:
        with image.about(str(pty)):
            if pty.exclusive:
                image.shared.syscall(NR.ioctl, image.opened[pty.key(SLAVE)], terminals.TIOCEXCL)
            if pty.locked:
                master = image.opened[pty.key(MASTER)]
                image.shared.syscall(NR.ioctl, master, terminals.TIOCSPTLCK, opener.int32(1))


def _of_session(ptys: Sequence[Pty], session: int) -> Pty | None:
    return next((pty for pty in ptys if pty.session == session), None)


def emit_controlling(ptys: Sequence[Pty], session: int, image: Image) -> None:
    """By the leader of a session, once it has made it, before it forks those who are born into it."""
    pty = _of_session(ptys, session)
    if pty is not None:
        with image.about(f"controlling {pty}"):
            image.main.syscall(NR.ioctl, image.opened[pty.key(SLAVE)], terminals.TIOCSCTTY, 0)


def emit_foreground(ptys: Sequence[Pty], own: tuple[int, int, int], image: Image) -> None:
    """Once all groups are there, and nobody has ended yet. `own` are ID, session and controlling terminal of
    the process: the leader says which group is in the foreground, and who has given the terminal up does so.
    """
    pid, session, terminal = own
    pty = _of_session(ptys, session)
    if pty is None:
        return
    slave = image.opened[pty.key(SLAVE)]
    with image.about(f"controlling {pty}"):
        if pid == session:
            # From the background: SIGTTOU is blocked, as all signals are by now (__tty_check_change).
            group = image.data(struct.pack("<i", pty.foreground))
            image.main.syscall(NR.ioctl, slave, terminals.TIOCSPGRP, group)
        elif not terminal:
            image.main.syscall(NR.ioctl, slave, terminals.TIOCNOTTY)
