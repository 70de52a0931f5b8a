# SPDX-License-Identifier: Apache-2.0
"""Which fds lead outside the target: the streams that become restore's own stdio, what others hold."""

from __future__ import annotations

import os

from restorer.native import kcmp
from restorer.state import holders, locks, sockets, stdio
from restorer.state.descriptors import KCMP_FILE, Descriptor
from restorer.state.holders import Holder
from restorer.tracee import Tracee

RESTORABLE_INODES = frozenset(
    f"anon_inode:[{kind}]" for kind in ("eventfd", "eventpoll", "signalfd", "timerfd")
)


class Outside:
    """What is shared with other processes. `streams` are those of fds 0, 1 and 2 that lead outside."""

    def __init__(self, tracee: Tracee, found: list[Descriptor], own_sockets: frozenset[int]) -> None:
        self.tracee = tracee
        self.found = found
        self.sockets = own_sockets
        # Before any fd of the target is duplicated here, or this process counts as a holder.
        self._holders = holders.find(tracee.pid, frozenset(one.link for one in found if _is_shareable(one)))
        self.streams = {one.number: one for one in found if one.number <= 2 and self._leads_outside(one)}
        self._links = {one.link for one in self.streams.values()}

    def is_stdio(self, descriptor: Descriptor) -> bool:
        """Whether restore gives its own stdin, stdout or stderr for this fd."""
        return stdio.is_terminal(descriptor) or (_is_shareable(descriptor) and descriptor.link in self._links)

    def _leads_outside(self, descriptor: Descriptor) -> bool:
        if stdio.is_terminal(descriptor):
            return True
        if descriptor.is_fifo and not descriptor.flags & os.O_PATH:
            return bool(self._holders[descriptor.link]) or not self._has_other_end(descriptor)
        if descriptor.link.startswith("socket:"):
            return sockets.is_connection(self.tracee, descriptor, self.sockets)
        return False

    def _has_other_end(self, descriptor: Descriptor) -> bool:
        return any(
            other.link == descriptor.link and (other.access != descriptor.access or other.access == os.O_RDWR)
            for other in self.found
        )

    def refuse_shared(self, descriptor: Descriptor, what: str) -> None:
        """Raises Refused when another process holds the other end, or the same description."""
        holder = self._holder(descriptor)
        if holder:
            raise descriptor.refused(f"{what} shared with {holder}", "close it in one of the two first")

    def _holder(self, descriptor: Descriptor) -> Holder | None:
        for holder in self._holders[descriptor.link]:
            if _is_shared(descriptor, holder):
                return holder
        return None


def _is_shareable(descriptor: Descriptor) -> bool:
    """Kinds where another holder matters: with most files only the offset is shared."""
    if descriptor.flags & os.O_PATH:
        return False
    anonymous = descriptor.link in RESTORABLE_INODES
    locked = locks.is_shareable(descriptor)
    return descriptor.is_fifo or anonymous or locked or descriptor.link.startswith("socket:")


def _is_shared(descriptor: Descriptor, holder: Holder) -> bool:
    if descriptor.is_fifo or descriptor.link.startswith("socket:"):
        return True
    return _same(descriptor, holder)


def _same(descriptor: Descriptor, holder: Holder) -> bool:
    try:
        return kcmp(descriptor.pid, holder.pid, KCMP_FILE, descriptor.number, holder.fd) == 0
    except OSError:
        return False
