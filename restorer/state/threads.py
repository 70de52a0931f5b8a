# SPDX-License-Identifier: Apache-2.0
"""The threads: who they are, how they are made again with their ids, and what each does before it goes on."""

from __future__ import annotations

import os
import resource
import signal
import struct

from restorer.errors import FeatureError
from restorer.program import CTL, STACK_BYTES, Data, Image, Program, Slot
from restorer.record import dataclass
from restorer.sigframe import Frame
from restorer.state import altstack, pending, registers, robust, rseq
from restorer.state.altstack import Altstack
from restorer.state.pending import Pending
from restorer.state.robust import Robust
from restorer.state.rseq import Rseq
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

# struct clone_args, up to cgroup: eleven u64
CLONE_ARGS_BYTES = 88
ARGS_PIDFD, ARGS_EXIT_SIGNAL = 8, 32
ARGS_STACK, ARGS_STACK_BYTES, ARGS_TLS, ARGS_SET_TID, ARGS_SET_TID_COUNT = 40, 48, 56, 64, 72
_CLONE_ARGS = struct.Struct("<11Q")

_CLONE_VM, _CLONE_FS, _CLONE_FILES, _CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
_CLONE_THREAD, _CLONE_SYSVSEM = 0x10000, 0x40000
_THREAD_FLAGS = _CLONE_VM | _CLONE_FS | _CLONE_FILES | _CLONE_SIGHAND | _CLONE_THREAD | _CLONE_SYSVSEM
_PR_SET_NAME, _PR_GET_TID_ADDRESS = 15, 40
_SIG_UNBLOCK, _SIGSET_BYTES = 1, 8
# Too little for a file, and no dump into a pipe, for which 0 is no limit (do_coredump).
_NO_CORE = struct.pack("<QQ", 1, 1)
_TID_HINT = "is its id taken? then restore with --pid ns"
_SP_BELOW_BYTES, _SP_ABOVE_BYTES = 256, 256


@dataclass(frozen=True)
class ThreadState:
    """One thread; `tid` as the program knows it, `name` at most 15 bytes."""

    tid: int
    name: str
    clear_child_tid: int
    frame: Frame
    altstack: Altstack
    robust: Robust
    rseq: Rseq
    pending: Pending


def capture(tracee: Tracee, thread: Thread) -> ThreadState:
    """Reads one thread. Raises FeatureError without CONFIG_CHECKPOINT_RESTORE, Refused as registers do."""
    return ThreadState(
        tid=thread.nstid,
        name=thread.name,
        clear_child_tid=_clear_child_tid(tracee, thread),
        frame=registers.capture(thread),
        altstack=altstack.capture(tracee, thread),
        robust=robust.capture(thread),
        rseq=rseq.capture(thread),
        pending=pending.capture_thread(thread),
    )


def _clear_child_tid(tracee: Tracee, thread: Thread) -> int:
    try:
        thread.syscall(NR.prctl, _PR_GET_TID_ADDRESS, tracee.scratch)
    except OSError:
        raise FeatureError(
            "this kernel does not tell a thread's clear_child_tid", "it needs CONFIG_CHECKPOINT_RESTORE"
        ) from None
    (addr,) = struct.unpack("<Q", tracee.read(tracee.scratch, 8))
    return int(addr)


def never_lazy(state: ThreadState, tracee: Tracee) -> list[tuple[int, int]]:
    """(start, end) of what the kernel touches for this thread as it resumes or exits."""
    rsp = state.frame.regs.rsp
    found = [(rsp - _SP_BELOW_BYTES, rsp + _SP_ABOVE_BYTES)]
    if state.clear_child_tid:
        found.append((state.clear_child_tid, state.clear_child_tid + 4))
    if state.rseq.addr:
        found.append((state.rseq.addr, state.rseq.addr + state.rseq.size))
    return found + list(robust.touched(state.robust, tracee))


def clone_args(image: Image, flags: int) -> Data:
    """A struct clone_args with these flags, its pointers still empty."""
    return image.data(_CLONE_ARGS.pack(flags, *(0,) * 10))


def emit_spawn(state: tuple[ThreadState, ...], image: Image) -> None:
    """Makes all threads but the leader, each with its id and on a stack of its own in the region."""
    for thread, program in zip(state[1:], image.threads[1:], strict=True):
        with image.about(f"thread {thread.tid} '{thread.name}'", _TID_HINT):
            args = clone_args(image, _THREAD_FLAGS)
            image.main.store(args + ARGS_SET_TID, image.data(struct.pack("<i", thread.tid)))
            image.main.store(args + ARGS_SET_TID_COUNT, 1)
            emit_clone(args, image.main, program)


def emit_helper(image: Image, program: Program) -> Slot:
    """Makes a process that runs `program` in the memory of this one; a slot with its ID. Without an exit
    signal it is nothing that the program's wait(2) would find or be told of, but __WALL does.
    """
    return emit_clone(clone_args(image, _CLONE_VM), image.main, program)


def emit_clone(args: Data, parent: Program, program: Program) -> Slot:
    """In `parent`, a clone of its task by `args` that runs `program`, on the stack that this has."""
    assert program.stack is not None
    parent.store(args + ARGS_STACK, program.stack + -STACK_BYTES)
    parent.store(args + ARGS_STACK_BYTES, STACK_BYTES)
    return parent.spawn(args, CLONE_ARGS_BYTES, program)


def emit_end(program: Program, status: int) -> None:
    """The last ops of a process that ends as `status`, that of wait(2), says."""
    image = program.image
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        program.syscall(NR.prlimit64, 0, resource.RLIMIT_CORE, image.data(_NO_CORE), 0)
        program.syscall(NR.kill, program.call(NR.getpid), number)
        mask = image.data((1 << (number - 1)).to_bytes(_SIGSET_BYTES, "little"))
        program.syscall(NR.rt_sigprocmask, _SIG_UNBLOCK, mask, 0, _SIGSET_BYTES)
    else:
        program.exit(os.WEXITSTATUS(status))


def emit_early(state: ThreadState, image: Image, index: int) -> None:
    """What needs none of the program's memory: name, clear_child_tid, robust list, alternate stack."""
    program = image.threads[index]
    with image.about(f"name of thread {index}"):
        program.syscall(NR.prctl, _PR_SET_NAME, image.string(state.name))
    program.syscall(NR.set_tid_address, state.clear_child_tid)
    robust.emit(state.robust, image, index)
    altstack.emit(state.altstack, image, index)


def emit_late(state: ThreadState, image: Image, index: int) -> None:
    """What needs its pages in place, or must be last: rseq, pending signals."""
    image.threads[index].wait(CTL.eager_done)
    rseq.emit(state.rseq, image, index)
    pending.emit_thread(state.pending, image, index)


def emit_enter(state: ThreadState, image: Image, index: int, *, stops: bool = False) -> None:
    """Says that it is ready, waits for the launcher's go, and goes on where it was. `stops`: it stops its
    process before; continued, it finds the go given.
    """
    program = image.threads[index]
    frame = registers.emit(state.frame, state.altstack, image, index)
    program.add(CTL.ready)
    if stops:
        program.syscall(NR.kill, program.call(NR.getpid), signal.SIGSTOP)
    program.wait(CTL.go)
    program.add(CTL.left)
    program.enter(frame)
