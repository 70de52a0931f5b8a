# SPDX-License-Identifier: Apache-2.0
"""signalfds: which signals. What is in one are the pending signals of who reads it: see pending.py."""

from __future__ import annotations

import os

from restorer.program import Image, Slot
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor
from restorer.state.opening import Opener
from restorer.syscalls import NR

_SIGSET_BYTES = 8
_NEW = -1


@dataclass(frozen=True)
class SignalFd:
    """A signalfd: bit n - 1 of `mask` is signal n; `flags` are those of the description."""

    mask: int
    flags: int
    kind: str = "signalfd"


def capture(descriptor: Descriptor) -> SignalFd:
    """Reads fdinfo."""
    return SignalFd(int(descriptor.info["sigmask"], 16), descriptor.kept_flags)


def emit(state: SignalFd, image: Image, opener: Opener) -> Slot:
    """Makes it. It belongs to nobody: who reads it gets signals of his own (signalfd(2))."""
    mask = image.data(state.mask.to_bytes(_SIGSET_BYTES, "little"))
    flags = (state.flags & os.O_NONBLOCK) | os.O_CLOEXEC
    return opener.open(NR.signalfd4, _NEW, mask, _SIGSET_BYTES, flags)
