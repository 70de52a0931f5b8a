# SPDX-License-Identifier: Apache-2.0
"""The registers of a thread, as the signal frame from which rt_sigreturn(2) loads them all at once."""

from __future__ import annotations

from restorer.errors import Refused
from restorer.program import Data, Image
from restorer.sigframe import FPSTATE_AT, Frame, pack_ucontext, pack_xstate, trim
from restorer.state.altstack import Altstack
from restorer.syscalls import NR
from restorer.tracee import Thread

_ARCH_SET_GS, _ARCH_SET_FS = 0x1001, 0x1002


def capture(thread: Thread) -> Frame:
    """The frame of one thread. Raises Refused for segments and extended state that cannot come back."""
    regs = thread.resume_regs()
    if regs.fs or regs.gs or regs.cs & 4 or regs.ss & 4:
        raise Refused(f"thread {thread.tid} uses segment descriptors of its own (modify_ldt)")
    return Frame(regs, trim(thread.xstate, thread.tid), thread.sigmask)


def emit(frame: Frame, altstack: Altstack, image: Image, index: int) -> Data:
    """Sets the FS and GS bases and builds the frame; returns what `enter` takes."""
    program = image.threads[index]
    ucontext = image.data(pack_ucontext(frame, altstack.pack()), align=16)
    with image.about(f"registers of thread {index}"):
        program.store(ucontext + FPSTATE_AT, image.data(pack_xstate(frame.xstate), align=64))
        program.syscall(NR.arch_prctl, _ARCH_SET_GS, frame.regs.gs_base)
        program.syscall(NR.arch_prctl, _ARCH_SET_FS, frame.regs.fs_base)
    return ucontext
