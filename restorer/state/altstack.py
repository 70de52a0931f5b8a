# SPDX-License-Identifier: Apache-2.0
"""The alternate signal stack of a thread."""

from __future__ import annotations

import struct

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

_STACK = struct.Struct("<QIIQ")
_SS_ONSTACK = 1


@dataclass(frozen=True)
class Altstack:
    """stack_t: `flags` as sigaltstack(2) takes them, SS_DISABLE for none."""

    addr: int
    flags: int
    size: int

    def pack(self) -> bytes:
        """As the kernel's stack_t, 24 bytes."""
        return _STACK.pack(self.addr, self.flags, 0, self.size)


def capture(tracee: Tracee, thread: Thread) -> Altstack:
    """Asks the thread. While it is on that stack the kernel adds SS_ONSTACK, which it does not take back."""
    thread.syscall(NR.sigaltstack, 0, tracee.scratch)
    addr, flags, _, size = _STACK.unpack(tracee.read(tracee.scratch, _STACK.size))
    return Altstack(addr, flags & ~_SS_ONSTACK, size)


def emit(state: Altstack, image: Image, index: int) -> None:
    """sigaltstack, so that an error is seen; the thread's frame holds it once more, for rt_sigreturn."""
    with image.about(f"alternate signal stack of thread {index}"):
        image.threads[index].syscall(NR.sigaltstack, image.data(state.pack()), 0)
