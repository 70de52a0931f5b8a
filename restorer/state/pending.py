# SPDX-License-Identifier: Apache-2.0
"""Signals that wait to be delivered, to a thread or to the process, with their siginfo and in their order."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterable, Iterator

from restorer.program import Data, Image, Program
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

_SIGINFO_BYTES = 128
_SIGNO = struct.Struct("<i")


@dataclass(frozen=True)
class Pending:
    """siginfo_t of each, 128 bytes."""

    infos: tuple[bytes, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The signal numbers, in order."""
        return tuple(_SIGNO.unpack_from(info)[0] for info in self.infos)


def capture_thread(thread: Thread) -> Pending:
    """Those for one thread."""
    return _complete(thread.pending, thread.process.status.sig_pending)


def capture(tracee: Tracee) -> Pending:
    """Those for the process. A SIGSTOP among them has no siginfo worth keeping: see `stops`."""
    return _complete(tracee.pending, tracee.process.status.sig_shared_pending)


def _complete(infos: Iterable[bytes], mask: int) -> Pending:
    # Under memory pressure the kernel sets a signal's bit and queues no siginfo (__send_signal_locked); such
    # a signal is delivered as if by kill(2) from pid 0 (collect_signal).
    queued = tuple(infos)
    known = {_SIGNO.unpack_from(info)[0] for info in queued}
    missing = (number for number in range(1, 65) if mask >> (number - 1) & 1 and number not in known)
    return Pending(queued + tuple(_SIGNO.pack(number).ljust(_SIGINFO_BYTES, b"\0") for number in missing))


def stops(state: Pending) -> bool:
    """Whether a SIGSTOP is on its way: the process then comes back stopped."""
    return signal.SIGSTOP in state.numbers


def _sendable(state: Pending) -> Iterator[tuple[int, bytes]]:
    both = zip(state.numbers, state.infos, strict=True)
    return ((number, info) for number, info in both if number != signal.SIGSTOP)


def emit_thread(state: Pending, image: Image, index: int) -> None:
    """Queues them to the thread itself, which may send itself any si_code (do_rt_tgsigqueueinfo)."""
    if not state.infos:
        return
    program = image.threads[index]
    pid, tid = program.call(NR.getpid), program.call(NR.gettid)
    for number, info in _sendable(state):
        with image.about(f"pending signal {number} of thread {index}"):
            program.syscall(NR.rt_tgsigqueueinfo, pid, tid, number, _siginfo(program, info))


def emit(state: Pending, image: Image) -> None:
    """Queues them to the process, from its leader."""
    if not state.infos:
        return
    pid = image.main.call(NR.getpid)
    for number, info in _sendable(state):
        with image.about(f"pending signal {number} of the process"):
            image.main.syscall(NR.rt_sigqueueinfo, pid, number, _siginfo(image.main, info))


def _siginfo(program: Program, info: bytes) -> Data:
    return program.image.data(info)
