# SPDX-License-Identifier: Apache-2.0
"""The table of open fds put back.

The launcher opens each description at or above `fd_base`; the restored process closes all below, takes each
to its numbers, and closes all above but the channel, before it gives sockets their names and fills epoll
instances. Of several that share the table the first does so, when the others need nothing in it any more but
their channels.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from restorer.program import STAGE, Image, Slot, ok_or
from restorer.state import (
    anonymous,
    epolls,
    files,
    inet,
    inodeowners,
    inotify,
    locks,
    mqueues,
    netlink,
    owners,
    packet,
    pidfds,
    pipes,
    procfiles,
    ptys,
    stdio,
    tcp,
    timerfds,
    unixsockets,
)
from restorer.state.epolls import Epoll
from restorer.state.fdtable import Fds, about_fd, first_numbers, homed, lent, object_of
from restorer.state.files import File
from restorer.state.inet import InetSocket
from restorer.state.inotify import Inotify
from restorer.state.locks import Lock
from restorer.state.mqueues import MqueueEnd
from restorer.state.netlink import NetlinkSocket
from restorer.state.opening import FILE_HINT, Opener
from restorer.state.packet import PacketSocket
from restorer.state.pidfds import PidFd
from restorer.state.pipes import Opened, PipeEnd
from restorer.state.procfiles import ProcFile
from restorer.state.ptys import HungUp, PtyEnd
from restorer.state.stdio import Stdio
from restorer.state.timerfds import TimerFd
from restorer.state.unixopen import Place, UnixSockets
from restorer.state.unixsockets import UnixSocket
from restorer.syscalls import NR

_ALL = 0xFFFFFFFF


def emit_open(tables: Sequence[Fds], images: Sequence[Image], *, shared: bool) -> dict[int, Slot]:
    """Opens the descriptions of all the tree, in the launcher where it can be done there; a slot for each.

    Those that one process has opened for several go by numbers below fd_base, where no fd of the program is
    yet. `shared`: some processes share descriptors or directories, and whoever puts those back waits here for
    the others, which then need no fd, and no path, until all is open (`emit_watches`).
    """
    slots, unix = _Emit(tables, images).open_all()
    lowest = min(image.parking_fd for image in images)
    numbers = {index: lowest - 1 - k for k, index in enumerate(lent(tables))}
    if numbers or shared:
        _emit_lend(tables, numbers, slots, images)
    own = images[0].own
    program = images[0].main if unix.in_process else images[0].shared
    unix.finish(program, lambda index: own.get(("description", index), slots[index]))
    return slots


def _emit_lend(
    tables: Sequence[Fds], numbers: dict[int, int], slots: dict[int, Slot], images: Sequence[Image]
) -> None:
    for table, image in zip(tables, images, strict=True):
        for index, number in numbers.items():
            if table.homes[index] == table.process:
                image.main.syscall(NR.dup3, slots[index], number, os.O_CLOEXEC)
        image.main.add(STAGE.lent)
        image.main.wait(STAGE.lent, len(images))
        wanted = {fd.description for fd in table.fds} if table.is_first else set()
        for index in sorted(wanted & numbers.keys()):
            home = tables[table.homes[index]]
            if home is not table:
                with image.about(about_fd(table, table.descriptions[index].number, index)):
                    image.own["description", index] = _emit_borrow(home.pid, numbers[index], image)
        image.main.add(STAGE.borrowed)
        image.main.wait(STAGE.borrowed, len(images))


def _emit_borrow(pid: int, number: int, image: Image) -> Slot:
    pidfd = image.main.call(NR.pidfd_open, pid, 0)
    fd = image.main.call(NR.pidfd_getfd, pidfd, number, 0)
    image.main.syscall(NR.close, pidfd)
    return Opener(image, image.main).lift(fd)


def emit(table: Fds, slots: dict[int, Slot], image: Image) -> None:
    """Takes what the launcher has opened to its numbers in the process."""
    if not table.is_first:
        return
    main = image.main
    main.syscall(NR.close_range, 0, image.fd_base - 1, 0)

    def slot_of(description: int) -> Slot:
        return image.own.get(("description", description), slots[description])

    own = {fd.number: slot_of(fd.description) for fd in table.fds}
    fired = {
        number: epolls.emit_early(epoll, own[number], own, slot_of, image)
        for number, epoll in first_numbers(table, Epoll)
    }
    for fd in table.fds:
        with image.about(about_fd(table, fd.number, fd.description)):
            main.syscall(NR.dup3, own[fd.number], fd.number, os.O_CLOEXEC if fd.cloexec else 0)
    _emit_close_above([image.builder.images[index] for index in table.sharers], image)
    _emit_owners(table, image)
    for number, timer in first_numbers(table, TimerFd):
        with image.about(f"fd {number}: timerfd"):
            timerfds.emit_early(timer, number, image)
    passing = {fd.number for fd in table.fds if fd.passing}
    _emit_locks(table, [one for one in table.locks if one[0] in passing], image)
    # Closing a file gives up the process's POSIX locks on it, whatever fd they were taken by (fcntl(2)).
    for fd in table.fds:
        if fd.passing and isinstance(object_of(table, fd), File):
            main.syscall(NR.close, fd.number)
    early = [one for one in table.locks if one[0] not in passing and one[1].kind != "LEASE"]
    _emit_locks(table, early, image)
    outside = frozenset(fd.number for fd in table.fds if isinstance(object_of(table, fd), Stdio))
    for number, epoll in first_numbers(table, Epoll):
        epolls.emit_entries(epoll, number, fired[number], image, outside)


def _emit_locks(table: Fds, wanted: Sequence[tuple[int, Lock]], image: Image) -> None:
    for number, lock in wanted:
        state = next(object_of(table, fd) for fd in table.fds if fd.number == number)
        locks.emit(lock, number, state.path if isinstance(state, File) else state.kind, image)


def emit_watches(table: Fds, image: Image) -> None:
    """When all is open that this process opens: what an open would be told to, or would break."""
    if image.processes > 1:
        image.main.add(STAGE.opened)
        image.main.wait(STAGE.opened, image.processes)
    passing = {fd.number for fd in table.fds if fd.passing}
    late = [
        one for one in table.locks if one[0] not in passing and (one[1].kind == "LEASE" or not table.is_first)
    ]
    _emit_locks(table, late, image)
    for number, state in first_numbers(table, Inotify):
        inotify.emit_watches(state, number, image)


def emit_resume(table: Fds, image: Image) -> None:
    """Before credentials, and after all else that may fail, in any process: TCP connections speak again."""
    if not any(isinstance(one.object, InetSocket) and one.object.connection for one in table.descriptions):
        return
    image.main.add(STAGE.settled)
    if table.process == 0:
        image.main.wait(STAGE.settled, image.processes)
        tcp.emit_unblock(table.firewall, image)
        image.main.add(STAGE.unblocked)
    image.main.wait(STAGE.unblocked)
    for number, state in first_numbers(table, InetSocket):
        inet.emit_resume(state, number, image)


def emit_late(table: Fds, image: Image) -> None:
    """After credentials, which unix sockets tell their peers."""
    for number, state in first_numbers(table, UnixSocket):
        with image.about(f"fd {number}: {unixsockets.describe(state)}"):
            unixsockets.emit_late(state, number, image)
    for number, inet_socket in first_numbers(table, InetSocket):
        inet.emit_late(inet_socket, number, image)
    for number, timer in first_numbers(table, TimerFd):
        with image.about(f"fd {number}: timerfd"):
            timerfds.emit_late(timer, number, image)
    for fd in table.fds:
        if fd.passing and not isinstance(object_of(table, fd), File):
            image.main.syscall(NR.close, fd.number)


def _emit_close_above(sharers: Sequence[Image], image: Image) -> None:
    """All but the channels of those who have the table. Their numbers are known to the launcher only, which
    opens one after the other; two that follow each other leave an empty range between them.
    """
    low: int | Slot = image.fd_base
    with image.about("the channel to the launcher"):
        for one in sharers:
            image.main.check_ge(one.channel, low)
            image.main.syscall(NR.close_range, low, one.channel + -1, 0, expect=ok_or(errno.EINVAL))
            low = one.channel + 1
        image.main.syscall(NR.close_range, low, _ALL, 0)


def _emit_owners(table: Fds, image: Image) -> None:
    for fd in homed(table):
        owner = table.descriptions[fd.description].owner
        if owner is not None:
            with image.about(f"fd {fd.number}: owner of its signals"):
                owners.emit(owner, fd.number, getattr(object_of(table, fd), "flags", 0), image)


class _Emit:
    """Opens descriptions in the launcher; `slots` by index of the description."""

    def __init__(self, tables: Sequence[Fds], images: Sequence[Image]) -> None:
        self.table = tables[0]
        self.tables = tables
        self.images = images
        self.image = images[0]
        self.opener = Opener(self.image)
        self.opened: dict[int, Opened] = {}
        self.queues: dict[int, mqueues.Opened] = {}
        self.slots: dict[int, Slot] = {}

    def open_all(self) -> tuple[dict[int, Slot], UnixSockets]:
        """The slots, and the unix sockets, which are still to be filled."""
        unix = UnixSockets(self._unix_places(), self.image, self.opener)
        self.slots |= unix.open()
        # A connection may be bound beside a listening socket, but not the other way round.
        for index in sorted(range(len(self.table.descriptions)), key=self._is_connection):
            if index not in self.slots:
                self.slots[index] = self._open(index)
        self._own()
        ptys.emit_finish(self.table.ptys, self.image, self.opener)
        for index, opened in self.opened.items():
            pipes.finish(self.table.pipes[index], opened, self.opener)
        for index, queue in self.queues.items():
            mqueues.finish(self.table.mqueues[index], queue, self.image, self.opener)
        return self.slots, unix

    def _own(self) -> None:
        for index, one in enumerate(self.table.descriptions):
            if one.inode_owner is not None:
                about = about_fd(self.table, one.number, index)
                with self.image.about(f"{about}: its owner", "restore as root"):
                    inodeowners.emit(one.inode_owner, self.slots[index], self.image)

    def _unix_places(self) -> dict[int, Place]:
        places = {}
        for index, one in enumerate(self.table.descriptions):
            if isinstance(one.object, UnixSocket):
                cwd = self.tables[self.table.homes[index]].cwd
                places[index] = Place(one.number, cwd, one.object)
        return places

    def _is_connection(self, index: int) -> bool:
        state = self.table.descriptions[index].object
        return isinstance(state, InetSocket) and state.connection is not None

    def _open(self, index: int) -> Slot:
        state = self.table.descriptions[index].object
        about = f"fd {self.table.descriptions[index].number}"
        if isinstance(state, InetSocket):
            return inet.emit(state, self.image, self.opener, about)
        if isinstance(state, NetlinkSocket):
            return netlink.emit(state, self.image, self.opener, about)
        if isinstance(state, PacketSocket):
            return packet.emit(state, self.image, self.opener, about)
        assert not isinstance(state, UnixSocket)
        hint = FILE_HINT if isinstance(state, File) else ""
        with self.image.about(about_fd(self.table, self.table.descriptions[index].number, index), hint):
            if isinstance(state, File):
                return files.emit(state, self.images[self.table.homes[index]], self.opener)
            if isinstance(state, PipeEnd):
                return self._open_pipe(state)
            if isinstance(state, PtyEnd):
                return self._open_pty(state, self.images[self.table.homes[index]])
            if isinstance(state, MqueueEnd):
                return self._open_queue(state)
            if isinstance(state, PidFd):
                return pidfds.emit(state, self.images[self.table.homes[index]])
            if isinstance(state, ProcFile):
                return procfiles.emit(state, self.images[self.table.homes[index]])
            if isinstance(state, HungUp):
                return ptys.emit_hung_up(state, self.image, self.opener)
            if isinstance(state, Stdio):
                return stdio.emit(state)
            return anonymous.emit(state, self.image, self.opener)

    def _open_pipe(self, end: PipeEnd) -> Slot:
        pipe = self.table.pipes[end.pipe]
        if end.pipe not in self.opened:
            self.opened[end.pipe] = pipes.emit(pipe, self.image, self.opener)
        return pipes.emit_end(end, pipe, self.opened[end.pipe], self.image, self.opener)

    def _open_queue(self, end: MqueueEnd) -> Slot:
        if end.queue not in self.queues:
            self.queues[end.queue] = mqueues.emit(self.table.mqueues[end.queue], self.image, self.opener)
        return mqueues.emit_end(end, self.queues[end.queue], self.opener)

    def _open_pty(self, end: PtyEnd, home: Image) -> Slot:
        if end.end == ptys.TTY:
            return ptys.emit_tty(end, home)
        return ptys.emit_end(end, self.table.ptys[end.pty], self.image, self.opener)
