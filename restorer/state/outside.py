# SPDX-License-Identifier: Apache-2.0
"""Which fds lead outside the tree: the streams that become restore's own stdio, what others hold."""

from __future__ import annotations

import os
from collections.abc import Sequence

from restorer.native import kcmp
from restorer.state import holders, inotify, locks, sockets, terminals
from restorer.state.descriptors import KCMP_FILE, Descriptor
from restorer.state.holders import Holder
from restorer.state.ptys import Ptys
from restorer.tracee import Tracee

RESTORABLE_INODES = frozenset(
    (inotify.LINK, *(f"anon_inode:[{kind}]" for kind in ("eventfd", "eventpoll", "signalfd", "timerfd")))
)


class Outside:
    """What is shared with processes that are not of the tree. `found` are the fds of all of the tree, by
    process.
    """

    def __init__(
        self, tracees: Sequence[Tracee], found: list[Descriptor], own_sockets: frozenset[int]
    ) -> None:
        self._tracees = {tracee.pid: tracee for tracee in tracees}
        self.found = found
        self.sockets = own_sockets
        # Before any more fds of the targets are duplicated here, or this process counts as a holder.
        self._holders = holders.find(
            self._tracees,
            frozenset(one.link for one in found if _is_shareable(one)),
            frozenset((one.pid, one.number) for one in found if one.in_flight),
        )
        found = [one for one in found if not one.in_flight]
        self.ptys = Ptys(self._tracees, found)
        self._streams: dict[int, dict[int, Descriptor]] = {pid: {} for pid in self._tracees}
        for one in found:
            if one.number <= 2 and self._leads_outside(one):
                self._streams[one.pid][one.number] = one
        self._links = {one.link for streams in self._streams.values() for one in streams.values()}

    def streams(self, pid: int) -> dict[int, Descriptor]:
        """Those of fds 0, 1 and 2 that lead outside: of the process, and where it has none, of the first
        that has.
        """
        merged: dict[int, Descriptor] = {}
        for streams in (self._streams.get(pid, {}), *self._streams.values()):
            merged |= {number: one for number, one in streams.items() if number not in merged}
        return merged

    def is_stdio(self, descriptor: Descriptor) -> bool:
        """Whether restore gives its own stdin, stdout or stderr for this fd."""
        if terminals.is_terminal(descriptor):
            return not descriptor.in_flight and not self.ptys.has(descriptor)
        return _is_shareable(descriptor) and descriptor.link in self._links

    def _leads_outside(self, descriptor: Descriptor) -> bool:
        if terminals.is_terminal(descriptor):
            return not self.ptys.has(descriptor)
        if descriptor.is_fifo and not descriptor.flags & os.O_PATH:
            return bool(self._holders[descriptor.link]) or not self._has_other_end(descriptor)
        if descriptor.link.startswith("socket:"):
            return sockets.is_connection(self._tracees[descriptor.pid], descriptor, self.sockets)
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
