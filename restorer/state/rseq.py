# SPDX-License-Identifier: Apache-2.0
"""Restartable sequences: each thread's registered area. A sequence cut by the stop is the tracer's affair."""

from __future__ import annotations

from restorer.program import Image
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread


@dataclass(frozen=True)
class Rseq:
    """What rseq(2) was called with; `addr` 0: not registered."""

    addr: int
    size: int
    signature: int


def capture(thread: Thread) -> Rseq:
    """The registration of one thread."""
    found = thread.rseq
    return Rseq(0, 0, 0) if found is None else Rseq(found.addr, found.size, found.signature)


def emit(state: Rseq, image: Image, index: int) -> None:
    """Registers the area; its page must be in place, since the kernel writes there."""
    if state.addr:
        with image.about(f"rseq of thread {index}"):
            image.threads[index].syscall(NR.rseq, state.addr, state.size, 0, state.signature)
