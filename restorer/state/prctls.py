# SPDX-License-Identifier: Apache-2.0
"""What prctl(2) and arch_prctl(2) set and no other module has: of the process, its memory and its threads."""

from __future__ import annotations

import errno
import struct

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

_SET_PDEATHSIG, _GET_PDEATHSIG = 1, 2
_GET_DUMPABLE, _SET_DUMPABLE = 3, 4
_GET_TSC, _SET_TSC = 25, 26
_MCE_KILL, _MCE_KILL_GET, _MCE_KILL_SET, _MCE_KILL_DEFAULT = 33, 34, 1, 2
_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37
_SET_THP_DISABLE, _GET_THP_DISABLE = 41, 42
_GET_SPECULATION, _SET_SPECULATION = 52, 53
_SET_IO_FLUSHER = 57
_SET_MDWE, _GET_MDWE = 65, 66
_SET_MEMORY_MERGE, _GET_MEMORY_MERGE = 67, 68
_ARCH_GET_CPUID, _ARCH_SET_CPUID = 0x1011, 0x1012
_ARCH_GET_XCOMP_PERM, _ARCH_REQ_XCOMP_PERM = 0x1022, 0x1023
_XTILEDATA = 18

_TSC_ENABLED = 1
_SPEC_PRCTL, _SPEC_ENABLE, _SPEC_DISABLE, _SPEC_FORCE_DISABLE, _SPEC_DISABLE_NOEXEC = 1, 2, 4, 8, 16
_SPEC_NAMES = ("store bypass", "indirect branch", "L1D flush")
# "Enable" asks for a mitigation here, for a speculation with the two others.
_SPEC_L1D_FLUSH = 2
# include/linux/sched.h: PF_MEMALLOC_NOIO, what PR_SET_IO_FLUSHER sets; asking by prctl needs
# CAP_SYS_RESOURCE.
_PF_MEMALLOC_NOIO = 0x00080000


@dataclass(frozen=True)
class ThreadPrctls:
    """What is a thread's own. `speculation` holds (which, value) of what was chosen by prctl."""

    death_signal: int
    tsc: int
    cpuid: bool
    machine_check: int
    speculation: tuple[tuple[int, int], ...]
    io_flusher: bool


@dataclass(frozen=True)
class Prctls:
    """What the process or its memory has. `threads` has the leader first."""

    dumpable: int
    child_subreaper: bool
    thp_disable: int
    write_execute: int
    memory_merge: bool
    tile_data: bool
    threads: tuple[ThreadPrctls, ...]

    @property
    def death_signal(self) -> bool:
        """Whether any thread has one."""
        return any(thread.death_signal for thread in self.threads)


def capture(tracee: Tracee) -> Prctls:
    """Asks each thread. What the kernel does not have is taken as off."""
    leader = tracee.leader
    return Prctls(
        dumpable=leader.syscall(NR.prctl, _GET_DUMPABLE),
        child_subreaper=bool(_word(tracee, leader, _GET_CHILD_SUBREAPER)),
        thp_disable=_ask(leader, _GET_THP_DISABLE),
        write_execute=_ask(leader, _GET_MDWE),
        memory_merge=bool(_ask(leader, _GET_MEMORY_MERGE)),
        tile_data=_has_tile_data(tracee),
        threads=tuple(_capture_thread(tracee, thread) for thread in tracee.threads),
    )


def _capture_thread(tracee: Tracee, thread: Thread) -> ThreadPrctls:
    chosen = []
    for which in range(len(_SPEC_NAMES)):
        value = _ask(thread, _GET_SPECULATION, which)
        changed = _SPEC_DISABLE | _SPEC_FORCE_DISABLE | _SPEC_DISABLE_NOEXEC
        if value & _SPEC_PRCTL and value & (_SPEC_ENABLE if which == _SPEC_L1D_FLUSH else changed):
            chosen.append((which, value & ~_SPEC_PRCTL))
    return ThreadPrctls(
        death_signal=_word(tracee, thread, _GET_PDEATHSIG),
        tsc=_word(tracee, thread, _GET_TSC),
        cpuid=thread.syscall(NR.arch_prctl, _ARCH_GET_CPUID) != 0,
        machine_check=_ask(thread, _MCE_KILL_GET),
        speculation=tuple(chosen),
        io_flusher=bool(thread.process.stat.flags & _PF_MEMALLOC_NOIO),
    )


def _ask(thread: Thread, option: int, argument: int = 0) -> int:
    """A prctl that returns its value; 0 on kernels that do not have it."""
    try:
        return thread.syscall(NR.prctl, option, argument)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV, errno.ENOSYS):
            return 0
        raise


def _word(tracee: Tracee, thread: Thread, option: int) -> int:
    """A prctl that writes an int."""
    thread.syscall(NR.prctl, option, tracee.scratch)
    return int(struct.unpack("<i", tracee.read(tracee.scratch, 4))[0])


def _has_tile_data(tracee: Tracee) -> bool:
    """Permission to use AMX, which a process must ask for (arch_prctl ARCH_REQ_XCOMP_PERM)."""
    try:
        tracee.syscall(NR.arch_prctl, _ARCH_GET_XCOMP_PERM, tracee.scratch)
    except OSError:
        return False
    return bool(int.from_bytes(tracee.read(tracee.scratch, 8), "little") >> _XTILEDATA & 1)


def emit(state: Prctls, image: Image) -> None:
    """What changes nothing for the ops to come."""
    main = image.main
    with image.about("AMX permission", "the processor must have AMX"):
        if state.tile_data:
            main.syscall(NR.arch_prctl, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
    with image.about("child subreaper"):
        main.syscall(NR.prctl, _SET_CHILD_SUBREAPER, int(state.child_subreaper))
    if state.thp_disable:
        with image.about("transparent huge pages"):
            main.syscall(NR.prctl, _SET_THP_DISABLE, 1, state.thp_disable & ~1)
    if state.memory_merge:
        with image.about("memory merging (KSM)", "it needs CAP_SYS_RESOURCE"):
            main.syscall(NR.prctl, _SET_MEMORY_MERGE, 1)
    for index, thread in enumerate(state.threads):
        _emit_thread(thread, image, index)


def _emit_thread(state: ThreadPrctls, image: Image, index: int) -> None:
    program = image.threads[index]
    with image.about(f"prctl settings of thread {index}"):
        if state.tsc != _TSC_ENABLED:
            program.syscall(NR.prctl, _SET_TSC, state.tsc)
        if not state.cpuid:
            program.syscall(NR.arch_prctl, _ARCH_SET_CPUID, 0)
        if state.machine_check != _MCE_KILL_DEFAULT:
            program.syscall(NR.prctl, _MCE_KILL, _MCE_KILL_SET, state.machine_check)
    for which, value in state.speculation:
        with image.about(f"speculation control of thread {index}: {_SPEC_NAMES[which]}"):
            program.syscall(NR.prctl, _SET_SPECULATION, which, value)
    if state.io_flusher:
        with image.about(f"thread {index} is an I/O flusher", "it needs CAP_SYS_RESOURCE"):
            program.syscall(NR.prctl, _SET_IO_FLUSHER, 1)


def emit_late(state: Prctls, image: Image) -> None:
    """What a change of credentials resets (commit_creds), and what forbids changes to mappings."""
    main = image.main
    for index, thread in enumerate(state.threads):
        with image.about(f"parent-death signal of thread {index}"):
            image.threads[index].syscall(NR.prctl, _SET_PDEATHSIG, thread.death_signal)
    with image.about("dumpable"):
        # 2, root's own, comes from a change of credentials only: prctl(2) takes 0 and 1.
        main.syscall(NR.prctl, _SET_DUMPABLE, int(state.dumpable == 1))
    if state.write_execute:
        with image.about("memory deny write execute"):
            main.syscall(NR.prctl, _SET_MDWE, state.write_execute)
