# SPDX-License-Identifier: Apache-2.0
"""How a thread finds back by itself when we die while it makes a syscall for us.

The kernel detaches what a dead tracer held and lets it run, from wherever its registers point to. So an
injected syscall is made from a `syscall; ret` that the program has anyway, on a stack of ours, where the
`ret` finds a signal frame, as if the syscall were the last thing a signal handler did: what follows is the
program's own call of rt_sigreturn(2), and that loads the thread's registers, extended state and signal mask
as they were.

The frame lies in the scratch memory. The two calls that map and unmap this have it on the leader's stack,
below the red zone, where the kernel itself would put the frame of a signal; what was there is put back
afterwards.

There is no such way back, and the call is made from any `syscall` instruction, if the program has no such
code, if the leader is on a stack that is not the kernel's (coroutines: nobody knows what lies below), and
with shadow stacks, which know of no such return.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from restorer import restarts
from restorer.errors import FeatureError, RestorerError
from restorer.model import Registers, Vma
from restorer.sigframe import Frame, pack_ucontext, pack_xstate, trim

if TYPE_CHECKING:
    from restorer.thread import Thread
    from restorer.tracee import Tracee

__all__ = ["FRAME_BYTES", "Lifeline", "Place"]

FRAME_BYTES = 8192
"""Room for one frame; extended state with AVX-512 takes 2.7 KB of it."""

_SYSCALL = b"\x0f\x05"
_SYSCALL_RET = b"\x0f\x05\xc3"
# mov $15, %rax or %eax; syscall: what sa_restorer points to, in every C library and in Go's runtime
_SIGRETURN = (b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", b"\xb8\x0f\x00\x00\x00\x0f\x05")
_SEARCH_BYTES = 1 << 18
_OVERLAP_BYTES = 8
_RED_ZONE_BYTES = 128
_SIGINFO_BYTES = 128
_XSTATE_ALIGN = 64
# flags that sigaltstack(2) refuses: restore_altstack ignores that, and the thread keeps the one it has
_ALTSTACK_AS_IT_IS = struct.pack("<QIIQ", 0, 0x40, 0, 0)


class Place(NamedTuple):
    """Where a call is made from: its `syscall` instruction, and the frame on top of its stack, or 0."""

    insn: int
    stack: int


class Code(NamedTuple):
    """Instructions found in the target; 0 where there are none."""

    syscall: int
    syscall_ret: int
    sigreturn: int


class Lifeline:
    """The frames of one process: one at a time, since one thread at a time makes calls."""

    def __init__(self, tracee: Tracee) -> None:
        self._tracee = tracee
        self._frames: dict[int, Frame] = {}
        self._in_scratch = 0  # the thread whose frame is there
        self._place = Place(0, 0)

    @cached_property
    def code(self) -> Code:
        """The instructions that calls are made from. Raises FeatureError for a program without `syscall`."""
        found = Code(0, 0, 0)
        for start, end in self._code_blocks():
            found = self._search(found, start, end - start)
            if found.syscall_ret and found.sigreturn:
                break
        if not found.syscall:
            raise FeatureError(
                f"process {self._tracee.pid} has no `syscall` instruction anywhere",
                "a program without one cannot be asked",
            )
        return found

    def _code_blocks(self) -> Iterator[tuple[int, int]]:
        for vma in sorted(filter(_is_code, self._tracee.vmas), key=_order):
            for start in range(vma.start, vma.end, _SEARCH_BYTES):
                yield start, min(vma.end, start + _SEARCH_BYTES + _OVERLAP_BYTES)

    def _search(self, found: Code, start: int, length: int) -> Code:
        try:
            data = self._tracee.read(start, length)
        except RestorerError:
            return found
        places = (data.find(_SYSCALL), data.find(_SYSCALL_RET), max(map(data.find, _SIGRETURN)))
        return Code(*(old or (start + at if at >= 0 else 0) for old, at in zip(found, places, strict=True)))

    def in_scratch(self, thread: Thread, addr: int) -> Place:
        """The place for a call of `thread`, its frame written to the FRAME_BYTES at `addr`."""
        if self._in_scratch != thread.tid:
            self._in_scratch = thread.tid
            data = self._pack(thread, addr)
            self._tracee.write(addr, data)
            self._place = Place(self.code.syscall_ret, addr) if data else Place(self.code.syscall, 0)
        return self._place

    @contextmanager
    def on_stack(self, thread: Thread) -> Iterator[Place]:
        """The same on the thread's own stack, until the end of the block. After a call that has failed
        half-way the frame stays: the thread may need it yet.
        """
        addr = self._below(thread.regs.rsp)
        data = self._pack(thread, addr) if addr else b""
        if not data:
            yield Place(self.code.syscall, 0)
            return
        before = self._tracee.read(addr, len(data))
        self._tracee.write(addr, data)
        try:
            yield Place(self.code.syscall_ret, addr)
        finally:
            if not thread.disturbed:
                self._tracee.write(addr, before)

    def _below(self, stack: int) -> int:
        for vma in self._tracee.vmas:
            if vma.name == "[stack]" and vma.start <= stack < vma.end:
                addr = (stack - _RED_ZONE_BYTES - FRAME_BYTES) & -_XSTATE_ALIGN
                return addr if addr >= vma.start else 0
        return 0

    def _pack(self, thread: Thread, addr: int) -> bytes:
        """struct rt_sigframe; b"" where the way back is not to be had."""
        code = self.code
        if not (code.syscall_ret and code.sigreturn) or thread.has_shadow_stack:
            return b""
        frame = self._frame(thread)
        head = 8 + len(pack_ucontext(frame, _ALTSTACK_AS_IT_IS)) + _SIGINFO_BYTES
        xstate_at = -(-(addr + head) // _XSTATE_ALIGN) * _XSTATE_ALIGN
        data = struct.pack("<Q", code.sigreturn) + pack_ucontext(frame, _ALTSTACK_AS_IT_IS, xstate_at)
        data = data.ljust(xstate_at - addr, b"\0") + pack_xstate(frame.xstate)
        return data if len(data) <= FRAME_BYTES else b""

    def _frame(self, thread: Thread) -> Frame:
        if thread.tid not in self._frames:
            xstate = trim(thread.xstate, thread.tid)
            self._frames[thread.tid] = Frame(self._regs(thread), xstate, thread.sigmask)
        return self._frames[thread.tid]

    def _regs(self, thread: Thread) -> Registers:
        """rt_sigreturn ends what the kernel would do about an interrupted syscall: it is made again, or
        returns EINTR to a handler. Whether one has SA_RESTART cannot be asked yet; most have.
        """
        if not restarts.interrupted(thread.regs):
            return thread.resume_regs()
        nr = thread.interrupted_call()
        if nr is None:
            return thread.regs.but(rax=-errno.EINTR, orig_rax=-1)
        if thread.legitimate():
            return restarts.with_handler(thread.regs, nr, sa_restart=True)
        return restarts.again(thread.regs, nr)


def _is_code(vma: Vma) -> bool:
    return vma.executable and vma.readable and not vma.shared


def _order(vma: Vma) -> tuple[bool, bool]:
    """The vDSO, whose `syscall` outlives all else (wire.h); the C library, which has the rest; all others."""
    name = vma.path.rpartition("/")[2]
    return vma.name != "[vdso]", not name.startswith(("libc.so", "libc-", "ld-musl"))
