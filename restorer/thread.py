# SPDX-License-Identifier: Apache-2.0
"""One stopped thread of a seized process."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from restorer import restarts
from restorer.errors import Refused
from restorer.model import Registers
from restorer.native import check, ffi, lib, new_error
from restorer.procfs import Status

if TYPE_CHECKING:
    from restorer.lifeline import Place
    from restorer.tracee import Tracee

__all__ = ["SIGINFO_BYTES", "RobustList", "Rseq", "Thread", "peek_signals"]

SIGINFO_BYTES = 128

_ERROR_MAX = 4095
_XSTATE_ROOM_BYTES = 65536
_PEEK = 64
_RT_SIGACTION = 13
_SA_RESTART = 0x10000000
_FILTER_INSNS = 4096


class Rseq(NamedTuple):
    """A registered restartable-sequences area, rseq(2). `size` in bytes as registered."""

    addr: int
    size: int
    signature: int
    flags: int


class RobustList(NamedTuple):
    """What set_robust_list(2) was given; `addr` 0 for none."""

    addr: int
    size: int


def peek_signals(tid: int, shared: bool) -> list[bytes]:
    """The siginfo_t, 128 bytes each, pending for a thread, or with `shared` for its process; queue order."""
    found: list[bytes] = []
    infos = ffi.new("char[]", _PEEK * SIGINFO_BYTES)
    count = ffi.new("int32_t *")
    while True:
        err = new_error()
        check(lib.tr_peek_signals(tid, int(shared), len(found), infos, _PEEK, count, err), err)
        if count[0] == 0:
            return found
        data = bytes(ffi.buffer(infos, count[0] * SIGINFO_BYTES))
        found += [data[at : at + SIGINFO_BYTES] for at in range(0, len(data), SIGINFO_BYTES)]


class Thread:
    """A thread while it is stopped: what it was doing, and syscalls made in its name.

    `tid` is as seen from here, `nstid` as the program sees it. `regs` are the registers it will have again
    when it is let go. `sigmask` is its signal mask (bit N-1 for signal N); inside ppoll, sigsuspend and the
    like, `blocked` is the temporary one, else the same. `status` is /proc/PID/task/TID/status as found.
    Seccomp is suspended in it, or `filters_hold` says why not.
    `set_again`: tr_wait_stop has seen to what `settle` does.
    `disturbed`: a syscall has failed half-way, and the thread finds back only when it is let go.
    """

    def __init__(self, tracee: Tracee, tid: int, set_again: bool = False) -> None:
        self._tracee = tracee
        self.tid = tid
        self.process = tracee.process.thread(tid)
        self.status: Status = self.process.status
        self.nstid = self.status.nspid
        self.blocked = self.status.sig_blocked
        self.sigmask = self._read_sigmask()
        self._mask_replaced = False
        self.disturbed = False
        self.filters_hold = self._suspend_filters() if self.status.seccomp else ""
        self._in_place = self._read_regs()
        self.regs = restarts.as_found(self._in_place) if set_again else self._in_place
        self.settle()
        self.rseq = self._read_rseq()
        self._leave_rseq_section()

    def __repr__(self) -> str:
        return f"<Thread {self.tid}>"

    def _read_sigmask(self) -> int:
        mask, err = ffi.new("uint64_t *"), new_error()
        self._tracee.check(lib.tr_get_sigmask(self.tid, mask, err), err)
        return int(mask[0])

    def _suspend_filters(self) -> str:
        err = new_error()
        if lib.tr_suspend_seccomp(self.tid, err) == 0:
            return ""
        if err.code == errno.EINVAL:
            return "this kernel cannot suspend: it needs CONFIG_CHECKPOINT_RESTORE"
        if err.code == errno.EPERM:
            return "only CAP_SYS_ADMIN can suspend, from a process that is under none itself"
        self._tracee.check(-1, err)
        return ""

    def filters(self) -> list[tuple[bytes, int]]:
        """Its seccomp filters, the oldest first: struct sock_filter[] and SECCOMP_FILTER_FLAG_* of each."""
        found: list[tuple[bytes, int]] = []
        insns = ffi.new("char[]", _FILTER_INSNS * 8)
        count, flags = ffi.new("int32_t *"), ffi.new("uint64_t *")
        while True:
            err = new_error()
            self._tracee.check(lib.tr_seccomp_filter(self.tid, len(found), insns, count, flags, err), err)
            if count[0] == 0:
                return found
            found.append((bytes(ffi.buffer(insns, count[0] * 8)), int(flags[0])))

    def _read_regs(self) -> Registers:
        regs, err = ffi.new("struct tr_regs *"), new_error()
        rc = lib.tr_get_regs(self.tid, regs, err)
        if rc < 0 and err.code == errno.ENOEXEC:
            raise Refused(
                f"process {self._tracee.pid} runs 32-bit code", "only x86-64 programs can be checkpointed"
            )
        self._tracee.check(rc, err)
        return Registers.of(struct.unpack("<27Q", ffi.buffer(regs)))

    def _write_regs(self, regs: Registers) -> None:
        err = new_error()
        self._tracee.check(lib.tr_set_regs(self.tid, _native_regs(regs), err), err)
        self._in_place = regs

    def _read_rseq(self) -> Rseq | None:
        rseq, err = ffi.new("struct tr_rseq *"), new_error()
        self._tracee.check(lib.tr_get_rseq(self.tid, rseq, err), err)
        return Rseq(rseq.addr, rseq.size, rseq.signature, rseq.flags) if rseq.addr else None

    def _leave_rseq_section(self) -> None:
        # Stopping the thread was a preemption: the kernel would send it to the abort handler on its way back
        # to user mode (rseq_ip_fixup). But it compares rip, and an injected syscall has another: it would
        # forget the section, and a thread put back into it would finish it as if it had not been disturbed.
        if self.rseq is None:
            return
        (section,) = struct.unpack("<Q", self._tracee.read(self.rseq.addr + 8, 8))
        if not section:
            return
        start, length, abort = struct.unpack("<QQQ", self._tracee.read(section + 8, 24))
        if (self.regs.rip - start) % (1 << 64) < length:
            self.regs = self.regs.but(rip=abort)
            self._write_regs(self.regs)

    @property
    def has_shadow_stack(self) -> bool:
        """Its returns are checked by the CPU (CET)."""
        return "shstk" in self.status.fields.get("x86_Thread_features", "")

    @property
    def name(self) -> str:
        """The thread's name, up to 15 bytes."""
        return self.process.comm()

    @property
    def xstate(self) -> bytes:
        """The XSAVE area in the standard format, exactly as the kernel hands it out."""
        buffer, err = ffi.new("char[]", _XSTATE_ROOM_BYTES), new_error()
        length = ffi.new("uint64_t *", _XSTATE_ROOM_BYTES)
        self._tracee.check(lib.tr_get_xstate(self.tid, buffer, length, err), err)
        return bytes(ffi.buffer(buffer, length[0]))

    @property
    def pending(self) -> list[bytes]:
        """Signals pending for this thread alone: siginfo_t of 128 bytes each, in their order."""
        return peek_signals(self.tid, shared=False)

    @property
    def robust_list(self) -> RobustList:
        """The head of the robust futex list."""
        head, length, err = ffi.new("uint64_t *"), ffi.new("uint64_t *"), new_error()
        self._tracee.check(lib.tr_get_robust_list(self.tid, head, length, err), err)
        return RobustList(head[0], length[0])

    def syscall(self, nr: int, *args: int) -> int:
        """Makes the thread do one syscall and returns its result; its registers are as before afterwards.

        Raises OSError for a negative errno, Refused where the target's own filters would meet the call,
        ProcessError if the thread is killed meanwhile. It must be a call that does not block.
        """
        self._refuse_filters()
        return self.call_from(self._tracee.place_for(self), nr, *args)

    def call_from(self, place: Place, nr: int, *args: int) -> int:
        """The same from an instruction, and with a way back, that the caller has chosen."""
        call, err = ffi.new("struct tr_call *"), new_error()
        call.insn, call.stack, call.nr = place.insn, place.stack, nr
        call.args = [word % (1 << 64) for word in (*args, 0, 0, 0, 0, 0, 0)[:6]]
        if not self._mask_replaced:
            self._mask_replaced = True
            self.settle()
        rc = lib.tr_inject(self.tid, _native_regs(self._in_place), self.sigmask, call, err)
        self.disturbed = bool(call.disturbed)
        self._tracee.check(rc, err)
        if call.stop_signal:
            self._tracee.note_group_stop(call.stop_signal)
        result = int(call.result)
        if -_ERROR_MAX <= result < 0:
            raise OSError(-result, f"{os.strerror(-result)} (syscall {nr} made in thread {self.tid})")
        return result

    def _refuse_filters(self) -> None:
        # A filter might answer with SIGSYS or a kill, in the middle of a program that did nothing.
        if self.filters_hold:
            raise Refused(f"thread {self.tid} runs under seccomp, which {self.filters_hold}")
        mode, err = ffi.new("uint64_t *"), new_error()
        self._tracee.check(lib.tr_get_dispatch(self.tid, mode, err), err)
        if mode[0]:
            raise Refused(
                f"thread {self.tid} has its syscalls dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH)"
            )

    def resume_regs(self) -> Registers:
        """The registers an image must hold, for a restore that ends in rt_sigreturn with `sigmask`.

        What the kernel would still do to an interrupted syscall is done (restarts.py); orig_rax is -1 where
        it was. If the call behind restart_syscall cannot be told, it returns EINTR.
        """
        regs = self.regs
        if restarts.interrupted(regs):
            nr = self.interrupted_call()
            if nr is None:
                return regs.but(rax=-errno.EINTR, orig_rax=-1)
            signals = self.legitimate()
            return (
                restarts.with_handler(regs, nr, self._restarts(signals))
                if signals
                else restarts.again(regs, nr)
            )
        if self._cut_short() and not self.legitimate():
            return restarts.again(regs, regs.syscall)
        return regs

    def interrupted_call(self) -> int | None:
        """The syscall that the kernel has marked to be made again, None if it cannot be told."""
        if self.regs.syscall != restarts.RESTART_SYSCALL:
            return self.regs.syscall
        return restarts.original_call(self.regs, self._tracee.read(self.regs.rip - 7, 7))

    def _cut_short(self) -> bool:
        # Through `int 0x80` the same numbers are other calls.
        return restarts.cut_short(self.regs) and self._tracee.read(self.regs.rip - 2, 2) == b"\x0f\x05"

    def legitimate(self) -> int:
        """Signals whose handler will run first thing, and which may end the interrupted call therefore.

        Under a temporary mask that is: those which neither mask blocks. One that only the temporary mask
        lets through meets the call once it is made again; one that only that mask blocks must not end it.
        """
        return self._tracee.pending_for(self) & self.status.sig_caught & ~self.blocked & ~self.sigmask

    def _restarts(self, signals: int) -> bool:
        # dequeue_signal: the thread's own queue first, and the lowest number of a queue.
        own = signals & self.process.status.sig_pending
        first = ((own or signals) & -(own or signals)).bit_length()
        self.syscall(_RT_SIGACTION, first, 0, self._tracee.scratch, 8)
        _handler, flags = struct.unpack("<QQ", self._tracee.read(self._tracee.scratch, 16))
        return bool(flags & _SA_RESTART)

    def settle(self) -> None:
        """Sees to it that a call which only our stop has ended is made again when the thread is let go.

        At once, since we may die, and once more at the end, since signals may have come. The rest is the
        kernel's, which finds rax and orig_rax as they were; but not if we replace the signal mask inside
        ppoll or the like (PTRACE_SETSIGMASK ends the temporary one): the kernel would see signals under the
        wrong mask. Nothing is done about a `disturbed` one: lifeline.py.
        """
        if self.disturbed:
            return
        lost_mask = self._mask_replaced and self.blocked != self.sigmask
        interrupted = lost_mask and restarts.interrupted(self.regs)
        again = (interrupted or self._cut_short()) and not self.legitimate()
        regs = restarts.again(self.regs, self.regs.syscall) if again else self.regs
        if regs != self._in_place:
            self._write_regs(regs)


def _native_regs(regs: Registers) -> Any:
    native = ffi.new("struct tr_regs *")
    ffi.buffer(native)[:] = struct.pack("<27Q", *regs.words())
    return native
