# SPDX-License-Identifier: Apache-2.0
"""Who has to fork whom, and when, so that each process is born into its session."""

from __future__ import annotations

import os
from collections.abc import Sequence

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.record import dataclass
from restorer.state.session import Session


@dataclass(frozen=True)
class Orphans:
    """Children (indices) of one process that another child of it has to fork: the leader of their session,
    which is `alive` or has ended.
    """

    session: int
    children: tuple[int, ...]
    alive: bool


def lost_sessions(root: int, sessions: Sequence[Session], dead: Sequence[Session]) -> frozenset[int]:
    """Sessions whose leader has ended; that of the root, where it leads none, is not among them."""
    found = {one.session for one in sessions} - {one.session for one in sessions if one.leads_session}
    found -= {0, sessions[0].session}
    # Others that have a leader have it outside of the tree; only in our own namespace can it be looked for.
    if Process(root).link("ns/pid") == os.readlink("/proc/self/ns/pid"):
        zombies = {one.pid for one in dead}
        found = {number for number in found if number in zombies or not Process(number).exists()}
    return frozenset(found)


class Descent:
    """By whom, and when, each process is forked: "before" its parent makes its session or "after" that, or
    by the leader of its session, whose number then stands there: one that has ended, or a living child of
    the same parent.
    """

    def __init__(self, sessions: Sequence[Session], parents: Sequence[int], lost: frozenset[int]) -> None:
        self.lost = lost
        self._sessions = sessions
        self._parents = parents
        self._known = {one.session for one in sessions if one.leads_session} | lost
        self._born: list[int | None] = [None]
        self._how: list[str | int] = ["after"]
        for index in range(1, len(parents)):
            self._add(index)
        for number in self._led():
            self._check(number)

    def _final(self, one: Session) -> int | None:
        # None stands for the session of `restore`, which takes the place of any that is led outside.
        return one.session if one.session in self._known else None

    def _add(self, index: int) -> None:
        own, parent = self._sessions[index], self._parents[index]
        above, wanted = self._sessions[parent], self._final(own)
        how: str | int
        if own.leads_session or wanted == self._final(above):
            how, born = "after", self._final(above)
        elif above.leads_session and wanted == self._born[parent]:
            how, born = "before", wanted
        elif wanted in self.lost or self._leader_beside(index) is not None:
            how, born = own.session, wanted
        else:
            raise Refused(
                f"process {own.pid} is in session {own.session}, which its parent has never been in",
                "end it first",
            )
        self._born.append(born)
        self._how.append(how)

    def _leader_beside(self, index: int) -> int | None:
        """The living leader of its session, where that is a child of the same parent and has the same signal
        for it: CLONE_PARENT hands down both.
        """
        own, parent = self._sessions[index], self._parents[index]
        for other, one in enumerate(self._sessions):
            if one.leads_session and one.pid == own.session and self._parents[other] == parent:
                return other if one.exit_signal == own.exit_signal else None
        return None

    def _led(self) -> list[int]:
        return sorted({how for how in self._how if isinstance(how, int)})

    def _check(self, number: int) -> None:
        """One leader has one parent, and one signal for it, which those have that it forks."""
        members = [index for index, how in enumerate(self._how) if how == number]
        if len({(self._parents[index], self._sessions[index].exit_signal) for index in members}) > 1:
            names = ", ".join(str(self._sessions[index].pid) for index in members)
            raise Refused(
                f"the processes {names} are in session {number}, whose leader has ended, and have different "
                "parents or signals for them",
                "end all but one of them first",
            )

    def _children(self, parent: int, how: str | int) -> tuple[int, ...]:
        born = enumerate(zip(self._parents, self._how, strict=True))
        return tuple(index for index, found in born if index and found == (parent, how))

    def before(self, parent: int) -> tuple[int, ...]:
        """Children of session leaders that are of the session their parent was born in."""
        return self._children(parent, "before")

    def after(self, parent: int) -> tuple[int, ...]:
        """Ordinary children."""
        return self._children(parent, "after")

    def orphans(self, parent: int) -> tuple[Orphans, ...]:
        """Children whom the leaders of their sessions fork."""
        found = (
            Orphans(number, self._children(parent, number), number not in self.lost) for number in self._led()
        )
        return tuple(one for one in found if one.children)
