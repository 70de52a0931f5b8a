# SPDX-License-Identifier: Apache-2.0
"""What happens to the process when memory runs out, and what a core dump of it holds."""

from __future__ import annotations

import os

from restorer.program import Image
from restorer.record import dataclass
from restorer.state.opening import AT_FDCWD
from restorer.syscalls import NR
from restorer.tracee import Tracee


@dataclass(frozen=True)
class Oom:
    """`score_adj` -1000 to 1000; `coredump_filter` as in core(5)."""

    score_adj: int
    coredump_filter: int


def capture(tracee: Tracee) -> Oom:
    """Reads both from /proc/PID."""
    return Oom(tracee.process.oom_score_adj(), tracee.process.coredump_filter())


def emit(state: Oom, image: Image) -> None:
    """Writes both; needs /proc, so before a chroot, and a dumpable process, so before credentials."""
    with image.about(
        f"oom_score_adj {state.score_adj}", "a lower score than restore's own needs CAP_SYS_RESOURCE"
    ):
        _write(image, "/proc/self/oom_score_adj", str(state.score_adj))
    with image.about(f"coredump_filter {state.coredump_filter:#x}"):
        _write(image, "/proc/self/coredump_filter", hex(state.coredump_filter))


def _write(image: Image, path: str, text: str) -> None:
    fd = image.main.call(NR.openat, AT_FDCWD, image.string(path), os.O_WRONLY | os.O_CLOEXEC)
    image.main.syscall(NR.write, fd, image.string(text), len(text))
    image.main.syscall(NR.close, fd)
