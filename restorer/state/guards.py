# SPDX-License-Identifier: Apache-2.0
"""Guard regions (MADV_GUARD_INSTALL, Linux 6.13): pages whose touch is SIGSEGV, with no mapping of their own.

They lie in the page tables, beside pages with content, so they are installed in the empty mapping before its
pages come. They are in the way of none: a guarded page has no content.
"""

from __future__ import annotations

from collections.abc import Sequence

from restorer import pagemap, wire
from restorer.errors import Refused
from restorer.model import Vma
from restorer.program import Image
from restorer.syscalls import NR
from restorer.tracee import Tracee

_MADV_GUARD_INSTALL = 102


def capture(tracee: Tracee, vmas: Sequence[Vma]) -> tuple[tuple[int, int], ...]:
    """(start, end) of each, none across two mappings. Raises Refused where they could not be installed
    again.
    """
    end = max((vma.end for vma in tracee.vmas if vma.end <= wire.TASK_SIZE), default=0)
    # Linux 6.13 and 6.14 may have some and do not tell of them.
    guards = list(pagemap.scan(tracee.pid, 0, end, pagemap.IS_GUARD))
    found: list[tuple[int, int]] = []
    for vma in vmas:
        own = [(max(start, vma.start), min(end, vma.end)) for start, end in guards]
        own = [(start, end) for start, end in own if start < end]
        if own and "lo" in vma.flags:
            raise Refused(f"memory at {vma} is locked and has guard pages", "unlock it first")
        found += own
    return tuple(found)


def emit(guards: Sequence[tuple[int, int]], image: Image) -> None:
    """Once everything is mapped, and before anything is locked or sealed."""
    for start, end in guards:
        with image.about(f"guard pages at {start:#x}"):
            image.main.syscall(NR.madvise, start, end - start, _MADV_GUARD_INSTALL)
