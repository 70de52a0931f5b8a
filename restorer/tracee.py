# SPDX-License-Identifier: Apache-2.0
"""Holding a live process still, and letting it go as if nothing had been.

    with seize(1234) as tracee:
        tracee.threads[0].regs.rip
        tracee.read(addr, 4096)
        tracee.syscall(SYS_umask, 0)

The kernel ties a tracee to the *thread* that seized it: use a Tracee from that thread only.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import Any

from restorer import restarts, targets
from restorer.collector import collecting
from restorer.errors import ProcessError, RestorerError
from restorer.guard import SignalGuard
from restorer.lifeline import FRAME_BYTES, Lifeline, Place
from restorer.model import Vma
from restorer.native import check, ffi, lib, new_error, pidfd_getfd, pidfd_open, pidfd_send_signal
from restorer.procfs import Process, Status
from restorer.targets import Stuck
from restorer.thread import RobustList, Rseq, Thread, peek_signals

__all__ = ["SCRATCH_BYTES", "RobustList", "Rseq", "Thread", "Tracee", "Unstoppable", "seize"]

SCRATCH_BYTES = 16384

# Below the frame is room for the handler of a signal that is pending when we die.
_MAPPED_BYTES = SCRATCH_BYTES + 16384 + FRAME_BYTES
_STOP_TIMEOUT_S = 2.0
_PATIENCE_S = 0.2
_TURN_MS = 5
_REAP_TIMEOUT_MS = 120_000
_SIGKILL = 9
_MMAP, _MUNMAP = 9, 11
_MAP_PRIVATE_ANONYMOUS = 0x22


@contextmanager
def seize(pid: int) -> Iterator[Tracee]:
    """Stops every thread of process `pid`; on leaving, lets them go with nothing changed.

    Raises, with the process running as before: ProcessError when it is not there, is not a process that can
    be seized, or is traced by another; PrivilegeError; Refused for itself, its parents, and 32-bit programs.
    An interrupted syscall goes on without the program noticing, and a stopped process stays stopped. Signals
    sent meanwhile stay pending. SIGTERM and SIGHUP, where they would kill us, end the block as SystemExit.
    A thread that waits uninterruptibly in the kernel makes it fail with Unstoppable, and is let go by that or
    by the kernel when we end.
    """
    targets.inspect(pid)
    tracee = Tracee(pid)
    with SignalGuard() as guard:
        try:
            tracee._freeze()
            guard.open()
            yield tracee
        except Stuck as stuck:
            guard.held = True
            tracee._patience_s = 0
            raise Unstoppable(tracee, stuck) from None
        finally:
            guard.held = True
            tracee._release()


class Unstoppable(ProcessError):
    """A process has a thread that waits uninterruptibly; all others have been let go."""

    def __init__(self, tracee: Tracee, stuck: Stuck) -> None:
        super().__init__(stuck.cause, stuck.hint)
        self._tracee = tracee

    def wait(self, until: float, check: Callable[[], None]) -> bool:
        """Whether that thread has come back by `until`, as of time.monotonic, and been let go. `check` is
        called now and then, and may raise.
        """
        while not self._tracee._let_go_of_rest():
            check()
            if time.monotonic() > until:
                return False
        return True


class Tracee:
    """A process held by `seize`. See docs/architecture.md for its place among the parts.

    `pid` is as seen from here, `threads` has the leader first. `stopped` says that the process was stopped by
    a signal (`stop_signal`), rather than running or waiting.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.process = Process(pid)
        self.threads: list[Thread] = []
        self.stop_signal = 0
        self._held: list[int] = []
        self._set_again: set[int] = set()
        self._left: list[int] = []
        self._patience_s = _STOP_TIMEOUT_S
        self._dead = False
        self._scratch = 0
        self._lifeline = Lifeline(self)
        self._files: list[int] = []

    # ------------------------------------------------------------ what there is to know

    @property
    def leader(self) -> Thread:
        """The thread whose tid is the pid."""
        return self.threads[0]

    @property
    def nspid(self) -> int:
        """The pid as the program sees it."""
        return self.leader.nstid

    @property
    def stopped(self) -> bool:
        """The process is in a group-stop, and will be after it is let go."""
        return self.stop_signal != 0

    def check(self, rc: int, err: Any) -> int:
        """native.check, but a thread that is not there any more means the end of the process."""
        if rc < 0 and err.code in (errno.ESRCH, errno.ECHILD):
            raise ProcessError(f"process {self.pid} has ended")
        return check(rc, err)

    def note_group_stop(self, number: int) -> None:
        """A stop signal has taken effect; `number` is the signal."""
        self.stop_signal = number

    @property
    def pending(self) -> list[bytes]:
        """Signals pending for the process as a whole: siginfo_t of 128 bytes each, in their order."""
        return peek_signals(self.pid, shared=True)

    @cached_property
    def vmas(self) -> list[Vma]:
        """The mappings with their VmFlags, as the process has them without us."""
        if self._scratch:
            raise RestorerError("the mappings were to be read before the scratch memory was made")
        return self.process.vmas()

    def pending_for(self, thread: Thread) -> int:
        """Mask of the pending signals that `thread` is the one to take.

        One for the process goes to the first thread that does not block it: threads are let go in this order.
        """
        status = thread.process.status
        shared = status.sig_shared_pending
        for other in self.threads:
            if other is thread:
                break
            shared &= other.sigmask
        return status.sig_pending | shared

    # ------------------------------------------------------------ memory

    @cached_property
    def _memory_file(self) -> int:
        with self.process.worded():
            return self.keep(os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC))

    def keep(self, fd: int) -> int:
        """Closes `fd` when the process is let go."""
        self._files.append(fd)
        return fd

    def read(self, addr: int, n: int) -> bytes:
        """`n` bytes at `addr`, whatever its access bits. Raises RestorerError where nothing is mapped."""
        return self.read_many([(addr, n)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of several (address, length), in few system calls."""
        if not ranges:
            return []
        total = sum(n for _, n in ranges)
        buffer = ffi.new("char[]", max(total, 1))
        err = new_error()
        remote = ffi.new("struct tr_remote[]", list(ranges))
        self.check(lib.tr_read_memory(self.pid, self._memory_file, remote, len(ranges), buffer, err), err)
        data, at, result = ffi.buffer(buffer, total), 0, []
        for _, n in ranges:
            result.append(data[at : at + n])
            at += n
        return result

    def write(self, addr: int, data: bytes) -> None:
        """Writes into the target, read-only mappings included (a private one is then no more the file's)."""
        err = new_error()
        source = ffi.from_buffer(data)
        self.check(lib.tr_write_memory(self.pid, self._memory_file, addr, source, len(data), err), err)

    # ------------------------------------------------------------ syscalls in its name

    @property
    def syscall_address(self) -> int:
        """Address of a `syscall` instruction in the target: the vDSO's, else that of any mapped code.

        The two bytes do, even inside a longer instruction.
        """
        return self._lifeline.code.syscall

    def syscall(self, nr: int, *args: int) -> int:
        """One syscall by the leader; see Thread.syscall."""
        return self.leader.syscall(nr, *args)

    @property
    def scratch(self) -> int:
        """Address of SCRATCH_BYTES bytes, readable and writable, mapped at first use and gone at the end."""
        if not self._scratch:
            _ = self.vmas
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            with self._lifeline.on_stack(self.leader) as place:
                self._scratch = self.leader.call_from(
                    place, _MMAP, 0, _MAPPED_BYTES, protection, _MAP_PRIVATE_ANONYMOUS, -1, 0
                )
        return self._scratch

    def place_for(self, thread: Thread) -> Place:
        """Where `thread` makes a syscall from, and finds back from if we die meanwhile."""
        return self._lifeline.in_scratch(thread, self.scratch + _MAPPED_BYTES - FRAME_BYTES)

    @cached_property
    def pidfd(self) -> int:
        """A pidfd of the process, ours until the end of the block."""
        return self.keep(pidfd_open(self.pid))

    def getfd(self, fd: int) -> int:
        """A duplicate of the target's `fd`; the caller closes it. Raises OSError."""
        return pidfd_getfd(self.pidfd, fd)

    # ------------------------------------------------------------ stopping and letting go

    def _freeze(self) -> None:
        # A thread that is not stopped yet may make another, so: until a whole pass finds none that is new.
        seen: set[int] = set()
        while fresh := [tid for tid in self.process.tasks() if tid not in seen]:
            seen.update(fresh)
            with collecting(self._held) if len(fresh) > 1 else nullcontext():
                self._await([tid for tid in fresh if self._ask(tid)])
        if self.pid not in self._held:
            raise ProcessError(f"process {self.pid} has ended")
        self._held.sort(key=lambda tid: (tid != self.pid, tid))
        for tid in self._held:
            self.threads.append(self._thread(tid))

    def _thread(self, tid: int) -> Thread:
        return Thread(self, tid, tid in self._set_again)

    def _ask(self, tid: int) -> bool:
        err = new_error()
        if lib.tr_seize(tid, err) < 0:
            return targets.explain(self.pid, tid, err)
        self._held.append(tid)
        # Fails only for a thread that dies just now, and the wait for its stop says so.
        lib.tr_interrupt(tid, new_error())
        return True

    def _await(self, tids: Sequence[int]) -> None:
        # In turns: a thread that execs waits for the others to be gone, which is for us to collect.
        began = time.monotonic()
        waiting = list(tids)
        while waiting := [tid for tid in waiting if not self._has_stopped(tid)]:
            waited = time.monotonic() - began
            if waiting == [self.pid] and waited > _PATIENCE_S:
                # The end of a leader is not told to its tracer before that of all other threads.
                targets.refuse_dead_leader(self.pid)
            if waited > _STOP_TIMEOUT_S:
                raise targets.does_not_stop(self.pid, waiting[0])

    def _has_stopped(self, tid: int) -> bool:
        stop, err = ffi.new("struct tr_stop *"), new_error()
        rc = lib.tr_wait_stop(tid, _TURN_MS, restarts.CUT_SHORT, stop, err)
        if rc < 0 and err.code == errno.ETIMEDOUT:
            # Asked again, since a thread that was on its way through execve(2) has been seen to run on
            # without ever taking the trap (Linux 6.18). One too many does no harm: detaching drops it.
            lib.tr_interrupt(tid, new_error())
            return False
        if rc < 0 and err.code == errno.ECHILD:
            # The thread has become the leader, by execve(2).
            raise ProcessError(f"process {self.pid} has just begun another program", "try again")
        self.check(rc, err)
        if stop.kind == lib.TR_GONE:
            self._held.remove(tid)
        elif stop.kind == lib.TR_GROUP_STOP:
            self.note_group_stop(stop.signal)
        elif stop.again:
            self._set_again.add(tid)
        return True

    def _release(self) -> None:
        try:
            if not self._dead:
                _attempt(self._unmap_scratch)
                for thread in self.threads:
                    _attempt(thread.settle)
                known = {thread.tid for thread in self.threads}
                for tid in self._held:
                    if tid not in known:
                        self._settle_unknown(tid)
                self._detach_all()
        finally:
            self._held.clear()
            self._close_files()

    def _close_files(self) -> None:
        for name in ("_memory_file", "pidfd"):
            self.__dict__.pop(name, None)
        while self._files:
            os.close(self._files.pop())

    def _unmap_scratch(self) -> None:
        # One who is to find back by a frame in there needs it still.
        if self._scratch and not any(thread.disturbed for thread in self.threads):
            with self._lifeline.on_stack(self.leader) as place:
                self.leader.call_from(place, _MUNMAP, self._scratch, _MAPPED_BYTES)
            self._scratch = 0

    def _detach_all(self) -> None:
        self._left = [tid for tid in self._held if lib.tr_detach(tid, new_error()) < 0]
        # Not stopped yet, because freezing failed half-way; or killed, and then ours to collect. In turns:
        # the end of the leader is told only after that of the others.
        deadline = time.monotonic() + self._patience_s
        while self._left and time.monotonic() < deadline:
            self._let_go_of_rest()

    def _let_go_of_rest(self) -> bool:
        """Whether nobody is left. Waits a moment for each."""
        self._left = [tid for tid in self._left if not self._detach_late(tid)]
        self._close_files()
        return not self._left

    def _detach_late(self, tid: int) -> bool:
        stop, err = ffi.new("struct tr_stop *"), new_error()
        if lib.tr_wait_stop(tid, _TURN_MS, restarts.CUT_SHORT, stop, err) < 0:
            lib.tr_interrupt(tid, new_error())
            return bool(err.code != errno.ETIMEDOUT)
        if stop.kind != lib.TR_GONE:
            if not stop.again:
                self._settle_unknown(tid)
            lib.tr_detach(tid, new_error())
        return True

    def _settle_unknown(self, tid: int) -> None:
        # A freeze that has failed leaves threads that have stopped, perhaps, and that nobody has looked at.
        _attempt(lambda: self._thread(tid))

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone; its parent finds a zombie. Nothing works after."""
        with suppress(ProcessLookupError):
            pidfd_send_signal(self.pidfd, _SIGKILL)
        for tid in reversed(self._held):
            err = new_error()
            self.check(lib.tr_reap(tid, _REAP_TIMEOUT_MS, err), err)
        self._dead = True

    @property
    def status(self) -> Status:
        """/proc/PID/status as it was when the process was seized."""
        return self.leader.status


def _attempt(step: Callable[[], Any]) -> None:
    # The target may be killed at any moment; then there is nothing to put back.
    with suppress(RestorerError, OSError):
        step()
