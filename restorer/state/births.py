# SPDX-License-Identifier: Apache-2.0
"""The tree: who forks whom, and in which sessions and process groups they end.

A process forks its children before it does anything else, while it still has the regions of all of them. A
session can be made, not joined: a child that is of its parent's former session is forked before the parent
calls setsid(2), the others after. Process groups are joined once all leaders are there; for a group whose
leader has ended, and been reaped, a *placeholder* with that ID leads it until all have joined. Zombies are
forked too, and end at once.

A session whose leader has ended, as that of a daemon which forked once more, has a placeholder too: it makes
the session and forks those who are in it, by CLONE_PARENT, so that they are children of its own parent.

The root, where it leads none, joins the session and the group of `restore`, as a job of the shell that it
runs in; so do those of the tree that were in the same ones.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import replace

from restorer import wire
from restorer.errors import Refused
from restorer.procfs import Process
from restorer.program import STAGE, Data, Image, Program, Slot, ok_or
from restorer.record import dataclass
from restorer.state import channel, ptys, session, threads
from restorer.state.descent import Descent, Orphans, lost_sessions
from restorer.state.ptys import Pty
from restorer.state.session import Session
from restorer.syscalls import NR
from restorer.tracee import Tracee

_CLONE_PIDFD, _CLONE_PARENT, _CLONE_CLEAR_SIGHAND = 0x1000, 0x8000, 0x100000000
_WEXITED_NOWAIT_WALL = 0x41000004
_WALL = 0x40000000
_P_PID = 1
_PR_SET_NAME = 15
_SIGSET_BYTES, _SIGINFO_BYTES = 8, 128
_HINT = "is its id taken? then restore with --pid ns"


@dataclass(frozen=True)
class Zombie:
    """A child that has ended and was not yet waited for. `status` is that of wait(2), `uid` its real user
    id.
    """

    name: str
    session: Session
    status: int
    uid: int


@dataclass(frozen=True)
class Birth:
    """One process: the index of its parent, -1 for the root, its dead children, and the groups that a
    placeholder has to lead; `before` are children (indices) that are forked before it makes its session,
    `orphans` those whom the leader of another one forks, `after` the others. `stopped` are those that are
    stopped, each with whether it has been told so, by wait(2).

    `born`, `apart` and `leaves` are flags of clone(2) for what several processes have (inheritance.py): what
    it is made with, what its maker leaves just before that, and what it leaves itself when it has made all.
    """

    parent: int
    session: Session
    before: tuple[int, ...]
    after: tuple[int, ...]
    orphans: tuple[Orphans, ...]
    zombies: tuple[Zombie, ...]
    placeholders: tuple[int, ...]
    stopped: tuple[tuple[int, bool], ...] = ()
    born: int = 0
    apart: int = 0
    leaves: int = 0

    @property
    def lost_sessions(self) -> tuple[Orphans, ...]:
        """Those whose leader has ended and is not among the dead children either."""
        dead = {zombie.session.pid for zombie in self.zombies}
        return tuple(one for one in self.orphans if not one.alive and one.session not in dead)

    def orphans_of(self, pid: int) -> tuple[int, ...]:
        """Whom the leader `pid` forks for its parent."""
        return next((one.children for one in self.orphans if one.session == pid), ())

    @property
    def short_lived(self) -> tuple[int, ...]:
        """The IDs of the processes that end before the tree runs, zombies included."""
        lost = tuple(one.session for one in self.lost_sessions)
        return *(zombie.session.pid for zombie in self.zombies), *self.placeholders, *lost


@dataclass(frozen=True)
class Births:
    """A tree, parents before their children."""

    processes: tuple[Birth, ...]

    @property
    def tasks(self) -> int:
        """How many processes are made, those that do not live long among them."""
        return len(self.pids)

    @property
    def leaders(self) -> tuple[int, ...]:
        """The IDs of those that live and lead a session."""
        return tuple(one.session.pid for one in self.processes if one.session.leads_session)

    @property
    def pids(self) -> tuple[int, ...]:
        """All IDs that are chosen, those of `leaders` first."""
        found = list(self.leaders)
        for one in self.processes:
            found += () if one.session.leads_session else (one.session.pid,)
            found += one.short_lived
        return tuple(found)


def capture(pids: Sequence[int], zombies: Sequence[int]) -> Births:
    """Of frozen processes, the root first, each after its parent, and of their dead children. Raises
    Refused for a session that cannot be made again.
    """
    processes = [Process(pid) for pid in pids]
    sessions = [session.capture(process) for process in processes]
    index_of = {pid: index for index, pid in enumerate(pids)}
    parents = [-1, *(index_of[process.status.ppid] for process in processes[1:])]
    dead: list[list[Zombie]] = [[] for _ in pids]
    for pid in zombies:
        dead[index_of[Process(pid).status.ppid]].append(_zombie(Process(pid)))
    ended = [one.session for each in dead for one in each]
    return arrange(sessions, parents, dead, lost_sessions(pids[0], sessions, ended))


def arrange(
    sessions: Sequence[Session],
    parents: Sequence[int],
    dead: Sequence[Sequence[Zombie]],
    lost: frozenset[int],
) -> Births:
    """Who is forked by whom, and when. `parents` are indices, `dead` the zombies of each process, `lost` the
    sessions without a leader. Raises Refused.
    """
    descent = Descent(sessions, parents, lost)
    groups = _lost_groups(sessions, [one.session for each in dead for one in each], lost)
    return Births(
        tuple(
            Birth(
                parent=parents[index],
                session=own,
                before=descent.before(index),
                after=descent.after(index),
                orphans=descent.orphans(index),
                zombies=tuple(dead[index]),
                placeholders=tuple(group for group, home in groups.items() if home == index),
            )
            for index, own in enumerate(sessions)
        )
    )


def with_stops(births: Births, tracees: Sequence[Tracee], stopped: Sequence[bool]) -> Births:
    """The same, with who is `stopped` and whose parent knows."""
    found: list[list[tuple[int, bool]]] = [[] for _ in tracees]
    for index, one in enumerate(births.processes):
        if stopped[index] and one.parent >= 0:
            told = tracees[index].stopped and _has_told(tracees[one.parent], tracees[index])
            found[one.parent].append((index, told))
    return Births(
        tuple(replace(one, stopped=tuple(own)) for one, own in zip(births.processes, found, strict=True))
    )


def _has_told(parent: Tracee, child: Tracee) -> bool:
    # The real parent sees a stop until it has waited for it, whoever traces the child (task_stopped_code).
    parent.write(parent.scratch, bytes(_SIGINFO_BYTES))
    flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT | _WALL
    parent.syscall(NR.waitid, _P_PID, child.nspid, parent.scratch, flags, 0)
    return not any(parent.read(parent.scratch, 4))


def _zombie(process: Process) -> Zombie:
    status, stat = process.status, process.stat
    if os.WCOREDUMP(stat.exit_code):
        raise Refused(
            f"process {process.pid} '{status.name}' has dumped core and was not waited for",
            "wait for it first",
        )
    return Zombie(process.comm(), session.capture(process), stat.exit_code, status.uids.real)


def _lost_groups(
    sessions: Sequence[Session], zombies: Sequence[Session], lost_sessions: frozenset[int]
) -> dict[int, int]:
    """Group whose leader is gone -> index of the process that makes a placeholder for it: one of its
    session.
    """
    led = {one.pid for one in (*sessions, *zombies) if one.leads_group} | lost_sessions
    outside = {sessions[0].group} - led
    lost: dict[int, int] = {}
    for one in (*sessions, *zombies):
        if one.group not in led and one.group not in outside and one.group:
            home = next(index for index, other in enumerate(sessions) if other.session == one.session)
            lost.setdefault(one.group, home)
    return lost


def emit(births: Births, images: Sequence[Image], names: Sequence[str], pairs: Sequence[Pty]) -> None:
    """Forks everybody: the first ops of each main program. `names` are for messages; `pairs` have been made:
    who is forked after the leader of its session has taken one for a terminal inherits that.
    """
    for one, image in zip(births.processes, images, strict=True):
        for child in one.before:
            _emit_child(births, child, image.main, images[child], names[child])
        if one.session.leads_session:
            with image.about("session"):
                image.main.syscall(NR.setsid)
            ptys.emit_controlling(pairs, one.session.pid, image)
        for child in one.after:
            _emit_child(births, child, image.main, images[child], names[child])
        for child in births.processes[one.parent].orphans_of(one.session.pid) if one.parent >= 0 else ():
            _emit_child(births, child, image.main, images[child], names[child], parent=True)
        for orphans in one.lost_sessions:
            image.own["session", orphans.session] = _emit_leader(births, orphans, image, images, names)
        for zombie in one.zombies:
            _emit_zombie(births, zombie, image, images, names)
        image.own.update(
            {("placeholder", group): _emit_placeholder(births, group, image) for group in one.placeholders}
        )
        if one.session.leads_group and not one.session.leads_session:
            with image.about("process group"):
                image.main.syscall(NR.setpgid, 0, 0)
        if one.leaves:
            with image.about("what it shares with its children no more"):
                image.main.syscall(NR.unshare, one.leaves)


def _clone_args(image: Image, program: Program, flags: int, pid: int, exit_signal: int) -> Data:
    args = threads.clone_args(image, flags)
    program.store(args + threads.ARGS_EXIT_SIGNAL, exit_signal)
    program.store(args + threads.ARGS_SET_TID, image.data(struct.pack("<i", pid)))
    program.store(args + threads.ARGS_SET_TID_COUNT, 1)
    return args


def _emit_child(
    births: Births, child: int, program: Program, born: Image, name: str, *, parent: bool = False
) -> None:
    """`parent`: it is to be a child of the parent of who forks it, whose exit signal it then has."""
    birth, image = births.processes[child], program.image
    one = birth.session
    flags = _CLONE_PIDFD | _CLONE_CLEAR_SIGHAND | (_CLONE_PARENT if parent else 0) | birth.born
    with image.about(f"process {one.pid} '{name}'", _HINT):
        if birth.apart:
            program.syscall(NR.unshare, birth.apart)
        args = _clone_args(image, program, flags, one.pid, 0 if parent else one.exit_signal)
        number = image.reserve(4)
        program.store(args + threads.ARGS_PIDFD, number)
        program.fork(args, threads.CLONE_ARGS_BYTES, born.main, child)
        pidfd = program.load(number, 4)
    channel.emit_send(wire.MessageKind.BORN, pidfd, image, program, born.channel)
    program.syscall(NR.close, pidfd)


def _emit_leader(
    births: Births, orphans: Orphans, image: Image, images: Sequence[Image], names: Sequence[str]
) -> Slot:
    program = image.helper(f"leader of session {orphans.session}")
    with image.about(f"session {orphans.session}", _HINT):
        number = births.processes[orphans.children[0]].session.exit_signal
        args = _clone_args(image, image.main, _CLONE_CLEAR_SIGHAND, orphans.session, number)
        pid = image.main.fork(args, threads.CLONE_ARGS_BYTES, program, image.index)
        program.syscall(NR.setsid)
        for child in orphans.children:
            _emit_child(births, child, program, images[child], names[child], parent=True)
        _emit_outlast_groups(births, program)
    return pid


def _emit_outlast_groups(births: Births, program: Program) -> None:
    """Ends once everybody is in their group."""
    program.add(STAGE.born)
    program.wait(STAGE.born, births.tasks)
    program.add(STAGE.grouped)
    program.wait(STAGE.grouped, births.tasks)
    program.exit(0)


def _emit_zombie(
    births: Births, zombie: Zombie, image: Image, images: Sequence[Image], names: Sequence[str]
) -> None:
    own = zombie.session
    program = image.helper(f"zombie {own.pid}")
    with image.about(f"zombie {own.pid} '{zombie.name}'", _HINT):
        args = _clone_args(image, image.main, _CLONE_CLEAR_SIGHAND, own.pid, own.exit_signal)
        image.main.fork(args, threads.CLONE_ARGS_BYTES, program, image.index)
        if own.leads_session:
            program.syscall(NR.setsid)
            for child in births.processes[image.index].orphans_of(own.pid):
                _emit_child(births, child, program, images[child], names[child], parent=True)
        elif own.leads_group:
            program.syscall(NR.setpgid, 0, 0)
        program.syscall(NR.prctl, _PR_SET_NAME, image.string(zombie.name))
        _emit_meet_groups(births, own, program)
        program.add(STAGE.grouped)
        program.syscall(NR.setresuid, zombie.uid, -1, -1)
        threads.emit_end(program, zombie.status)


def _emit_placeholder(births: Births, group: int, image: Image) -> Slot:
    program = image.helper(f"placeholder of group {group}")
    with image.about(f"process group {group}", _HINT):
        # No exit signal: the program must not be told of the end of a child it never had.
        args = _clone_args(image, image.main, _CLONE_CLEAR_SIGHAND, group, 0)
        pid = image.main.fork(args, threads.CLONE_ARGS_BYTES, program, image.index)
        program.syscall(NR.setpgid, 0, 0)
        _emit_outlast_groups(births, program)
    return pid


def _emit_meet_groups(births: Births, own: Session, program: Program) -> None:
    """Waits until all IDs are taken, by threads too, then joins the group."""
    led = {one.session.pid for one in births.processes if one.session.leads_group}
    led |= {
        zombie.session.pid for one in births.processes for zombie in one.zombies if zombie.session.leads_group
    }
    led |= {group for one in births.processes for group in one.placeholders}
    led |= {lost.session for one in births.processes for lost in one.lost_sessions}
    program.add(STAGE.born)
    program.wait(STAGE.born, births.tasks)
    if own.group in led and not own.leads_group:
        program.syscall(NR.setpgid, 0, own.group)


def emit_groups(births: Births, pairs: Sequence[Pty], image: Image) -> None:
    """After the threads have been made: from here on nobody needs an ID of its own choice."""
    own = births.processes[image.index].session
    if births.tasks > 1:
        with image.about(f"process group {own.group}"):
            _emit_meet_groups(births, own, image.main)
    ptys.emit_foreground(pairs, (own.pid, own.session, own.terminal), image)


def emit_settled(births: Births, image: Image) -> None:
    """After the pager has been made: waits until all groups are joined and all pagers have gone to the
    launcher, then sees its dead children dead.

    What they and their like have left pending is taken away: pending.py puts back what was pending.
    """
    if births.tasks == 1:
        return
    one, program = births.processes[image.index], image.main
    program.add(STAGE.grouped)
    program.wait(STAGE.grouped, births.tasks)
    for group in one.placeholders:
        with image.about(f"process group {group}"):
            program.syscall(NR.wait4, image.own["placeholder", group], 0, _WALL, 0)
    for orphans in one.lost_sessions:
        with image.about(f"session {orphans.session}"):
            program.syscall(NR.wait4, image.own["session", orphans.session], 0, _WALL, 0)
            if number := births.processes[orphans.children[0]].session.exit_signal:
                _emit_forget(number, program)
    for zombie in one.zombies:
        own = zombie.session
        with image.about(f"zombie {own.pid} '{zombie.name}'"):
            program.syscall(NR.waitid, _P_PID, own.pid, 0, _WEXITED_NOWAIT_WALL, 0)
            if own.exit_signal:
                _emit_forget(own.exit_signal, program)


def emit_stops(births: Births, image: Image) -> None:
    """Waits until its stopped children have stopped; then it has been told as much of that as it had been.
    After all that a child could wait for, and before pending signals are put back.
    """
    program = image.main
    for child, told in births.processes[image.index].stopped:
        pid = births.processes[child].session.pid
        with image.about(f"process {pid}, which was stopped"):
            flags = os.WSTOPPED | _WALL | (0 if told else os.WNOWAIT)
            program.syscall(NR.waitid, _P_PID, pid, 0, flags, 0)
            _emit_forget(signal.SIGCHLD, program)


def _emit_forget(number: int, program: Program) -> None:
    """Takes a signal away that the making of the tree may have left pending."""
    mask = program.image.data((1 << (number - 1)).to_bytes(8, "little"))
    timeout = program.image.data(bytes(16))
    program.syscall(NR.rt_sigtimedwait, mask, 0, timeout, _SIGSET_BYTES, expect=ok_or(errno.EAGAIN))
