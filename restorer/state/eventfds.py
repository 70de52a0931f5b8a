# SPDX-License-Identifier: Apache-2.0
"""eventfds: counter, semaphore mode, flags."""

from __future__ import annotations

import os

from restorer.errors import FeatureError
from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.syscalls import NR

_EFD_SEMAPHORE = 1


@dataclass(frozen=True)
class EventFd:
    """An eventfd; `flags` are those of the description."""

    count: int
    semaphore: bool
    flags: int
    kind: str = "eventfd"


def capture(descriptor: Descriptor) -> EventFd:
    """Reads fdinfo. Raises FeatureError on kernels that do not show the mode (before Linux 6.5)."""
    if "eventfd-semaphore" not in descriptor.info:
        raise FeatureError(
            f"fd {descriptor.number}: this kernel does not show whether an eventfd is a semaphore",
            "eventfds need fdinfo's eventfd-semaphore",
        )
    return EventFd(
        count=int(descriptor.info["eventfd-count"], 16),
        semaphore=descriptor.info["eventfd-semaphore"] != "0",
        flags=descriptor.kept_flags,
    )


def emit(eventfd: EventFd, image: Image, opener: Opener) -> Slot:
    """Makes it and writes the counter: eventfd2's own argument is only 32 bits wide."""
    flags = (eventfd.flags & os.O_NONBLOCK) | os.O_CLOEXEC | (_EFD_SEMAPHORE if eventfd.semaphore else 0)
    fd = opener.open(NR.eventfd2, 0, flags)
    if eventfd.count:
        count = image.data(eventfd.count.to_bytes(8, "little"))
        image.shared.syscall(NR.write, fd, count, 8, expect=exactly(8))
    return fd
