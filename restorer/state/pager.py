# SPDX-License-Identifier: Apache-2.0
"""The pager's program: shares the memory of the process and nothing else, and may do little.

The process can write the pager's memory, so whatever the pager may do the process can make it do: it gets the
credentials of the process, no capability, and a filter of the few syscalls it needs.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import struct

from restorer import wire
from restorer.program import ANY, CTL, SLOT, Ctl, Image, Program, Slot, exactly
from restorer.state import channel, credentials, seccomp, threads
from restorer.state.userfault import Userfaults
from restorer.syscalls import NR

_CLONE_VM, _CLONE_FILES, _CLONE_PIDFD, _CLONE_PARENT, _CLONE_SETTLS = 0x100, 0x400, 0x1000, 0x8000, 0x80000
_WALL = 0x40000000
_PR_SET_NAME = 15
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID
_THREAD_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000 | 0x100000 | 0x200000
_ARGS_CHILD_TID, _ARGS_PARENT_TID = 16, 24
_STACK_BYTES, _TLS_BYTES = 65536, 4096
_NICE = -10 & 0xFFFFFFFF
_SCHED_ATTR, _SCHED_OTHER, _SCHED_IDLE = struct.Struct("<IIQiIQQQ"), 0, 5
_LONG_SLICE_NS = 100_000_000
_CLOSE_ALL_ABOVE = 0xFFFFFFFF
_SIGACTION, _SIGSET_BYTES, _SIG_IGN = struct.Struct("<4Q"), 8, 1
_POLLFD = struct.Struct("<ihh")

_INSN = struct.Struct("<HBBI")
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_DATA_NR, _DATA_ARCH, _DATA_ARG1 = 0, 4, 24
_AUDIT_ARCH_X86_64 = 0xC000003E
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_UFFDIO_MASK, _UFFDIO = 0xFF00, 0xAA00

_ALLOWED = (
    NR.futex,
    NR.pread64,
    NR.ppoll,
    NR.read,
    NR.sendmsg,
    NR.madvise,
    NR.close,
    NR.pidfd_send_signal,
    NR.getpid,
    NR.kcmp,
    NR.restart_syscall,
    NR.munmap,
    NR.exit,
    NR.exit_group,
)


def filter_program() -> bytes:
    """The filter: x86-64 numbers of `_ALLOWED`, ioctls of userfaultfd; anything else kills the pager.

    x32 numbers have bit 30 set and so equal none of the list.
    """
    insns = [
        (_LOAD, 0, 0, _DATA_ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _DATA_NR),
    ]
    for number in _ALLOWED:
        insns += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    insns += [
        (_JUMP_EQUAL, 1, 0, NR.ioctl),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _DATA_ARG1),
        (_AND, 0, 0, _UFFDIO_MASK),
        (_JUMP_EQUAL, 0, 1, _UFFDIO),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    ]
    return b"".join(_INSN.pack(*insn) for insn in insns)


def emit_spawn(image: Image) -> None:
    """Spawns the pager out of sight of the program's wait(2), and tells the launcher who it is.

    The root's is the launcher's child by CLONE_PARENT. The parent of any other process is a program that
    would find it among its children: there a short-lived process makes the pager, which by its end comes to
    the launcher, a subreaper, or to the init of the PID namespace (find_new_reaper in kernel/exit.c).
    """
    program = image.main
    with image.about("the pager"):
        pidfd = program.call(NR.pidfd_open, program.call(NR.getpid), 0)
        program.syscall(NR.fcntl, pidfd, fcntl.F_DUPFD_CLOEXEC, image.fd_base, result=SLOT.pidfd)
        program.syscall(NR.close, pidfd)
        if image.index == 0:
            # With CLONE_PARENT the exit signal is the parent's, and must not be given (kernel_clone).
            _emit_clone(_CLONE_PARENT, image, program)
        else:
            _emit_midwife(image)


def _emit_clone(flags: int, image: Image, program: Program) -> None:
    args = threads.clone_args(image, _CLONE_VM | _CLONE_SETTLS | _CLONE_PIDFD | flags)
    number = image.reserve(4)
    program.store(args + threads.ARGS_PIDFD, number)
    program.store(args + threads.ARGS_STACK, SLOT.pager_stack)
    program.store(args + threads.ARGS_STACK_BYTES, SLOT.pager_stack_bytes)
    program.store(args + threads.ARGS_TLS, SLOT.pager_tls)
    program.spawn(args, threads.CLONE_ARGS_BYTES, image.pager)
    pidfd = program.load(number, 4)
    channel.emit_send(wire.MessageKind.PAGER, pidfd, image, program)
    program.syscall(NR.close, pidfd)


def _emit_midwife(image: Image) -> None:
    program = image.helper(f"midwife of {image.main.name}")
    pid = threads.emit_helper(image, program)
    _emit_clone(0, image, program)
    program.exit(0)
    image.main.syscall(NR.wait4, pid, 0, _WALL, 0)


def emit(state: credentials.Credentials, uffds: Userfaults, image: Image) -> None:
    """What the pager does before it serves."""
    program = image.pager
    fds: list[tuple[Slot, int]] = [
        (uffds.private, wire.PagerFd.UFFD),
        (SLOT.data_fd, wire.PagerFd.DATA),
        (SLOT.channel, wire.PagerFd.CHANNEL),
        (SLOT.pidfd, wire.PagerFd.PIDFD),
    ]
    if uffds.shared is not None and uffds.windows is not None:
        fds += [(uffds.shared, wire.PagerFd.SHARED), (uffds.windows, wire.PagerFd.WINDOW)]
    with image.about("the pager"):
        for source, target in fds:
            program.syscall(NR.dup3, source, target, 0)
        program.syscall(NR.close_range, len(fds), _CLOSE_ALL_ABOVE, 0)
        program.syscall(NR.prlimit64, 0, resource.RLIMIT_CORE, image.data(bytes(16)), 0)
        # Out of the process group: it would keep the group alive, and be meant by signals to it. But not out
        # of the session, which is what the kernel shares CPUs out by (sched(7), "The autogroup feature"): in
        # one of its own the thread that works ahead would not give way to the program, SCHED_IDLE or not.
        program.syscall(NR.setpgid, 0, 0)
        # Among the program's threads it must not wait for its turn: they may be many, and wait for it.
        # Without CAP_SYS_NICE it takes its turn.
        program.syscall(NR.setpriority, os.PRIO_PROCESS, 0, _NICE, expect=ANY)
        credentials.emit_pager(state, image)
        # The keeper has its name from the start: the launcher must never take it for one of the program.
        program.syscall(NR.prctl, _PR_SET_NAME, image.string("restorer-keeper"))
        _emit_keeper(image, len(fds))
        program.syscall(NR.prctl, _PR_SET_NAME, image.string("restorer-pager"))
        _emit_decoder(image)
        _emit_installer(image)
        _emit_filter(image.pager)
        program.become_pager(image.index)


def _emit_keeper(image: Image, fd: int) -> None:
    """A process that shares the pager's fds, and does nothing but that; `fd` is the lowest that is free.

    Between reading of a fork and handing on the child's userfaultfd the pager is its only holder: if it is
    killed there, the child reads zeros until somebody kills the child. The keeper goes by itself when
    launcher and guard have, which end the program first; the pager ends it when nothing is missing.
    """
    keeper = image.helper(f"keeper of {image.main.name}")
    args = threads.clone_args(image, _CLONE_VM | _CLONE_FILES | _CLONE_PIDFD)
    ignored = image.data(_SIGACTION.pack(_SIG_IGN, 0, 0, 0))
    # No zombie: the pager does not wait for it.
    image.pager.syscall(NR.rt_sigaction, signal.SIGCHLD, ignored, 0, _SIGSET_BYTES)
    image.pager.store(args + threads.ARGS_EXIT_SIGNAL, signal.SIGCHLD)
    image.pager.store(args + threads.ARGS_PIDFD, image.reserve(4))
    threads.emit_clone(args, image.pager, keeper)
    if fd != wire.PagerFd.KEEPER:
        image.pager.syscall(NR.dup3, fd, wire.PagerFd.KEEPER, 0)
        image.pager.syscall(NR.close, fd)
    _emit_filter(keeper)
    hangup = image.data(_POLLFD.pack(wire.PagerFd.CHANNEL, 0, 0))
    keeper.syscall(NR.ppoll, hangup, 1, 0, 0, 0, expect=ANY)
    keeper.exit(0)


def _emit_decoder(image: Image) -> None:
    """A thread of the pager that decodes ahead, and gets no CPU that anybody else wants."""
    thread = _emit_thread(image, image.decoder, CTL.ahead)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, _SCHED_IDLE, 0, 0, 0, 0, 0, 0)
    image.pager.syscall(NR.sched_setattr, thread, image.data(attributes), 0)
    image.decoder.decode_ahead()


def _emit_installer(image: Image) -> None:
    """A thread of the pager that installs beside it while the program only waits.

    As nice as a program is by default: where it is less nice a thread that wakes has had more than its share,
    and waits. Its slices are long, so that none need wait for the end of one: who has shorter ones goes first
    (PREEMPT_SHORT in kernel/sched/fair.c, Linux 6.12).
    """
    thread = _emit_thread(image, image.installer, CTL.storm)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, _SCHED_OTHER, 0, 0, 0, _LONG_SLICE_NS, 0, 0)
    image.pager.syscall(NR.sched_setattr, thread, image.data(attributes), 0)
    image.installer.install_in_storms()


def _emit_thread(image: Image, of: Program, tid: Ctl) -> Slot:
    """A thread of the pager that runs the program `of`; the kernel clears the word `tid` when it has gone."""
    program = image.pager
    args = threads.clone_args(image, _THREAD_FLAGS)
    program.store(args + _ARGS_CHILD_TID, tid)
    program.store(args + _ARGS_PARENT_TID, tid)
    program.store(args + threads.ARGS_STACK, image.reserve(_STACK_BYTES))
    program.store(args + threads.ARGS_STACK_BYTES, _STACK_BYTES)
    program.store(args + threads.ARGS_TLS, image.reserve(_TLS_BYTES))
    return program.spawn(args, threads.CLONE_ARGS_BYTES, of)


def _emit_filter(program: Program) -> None:
    table = seccomp.emit_table(filter_program(), program.image, program)
    flags = _SECCOMP_FILTER_FLAG_TSYNC
    program.syscall(NR.seccomp, _SECCOMP_SET_MODE_FILTER, flags, table, expect=exactly(0))
