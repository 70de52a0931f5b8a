# SPDX-License-Identifier: Apache-2.0
"""Holding a whole process tree still.

From the root down: a process that is held makes no more children, so that a pass over the children of all
who are held which meets nobody new, dead or alive, has found all. Whoever ends meanwhile leaves its own
children to an ancestor that is held and a subreaper, or to one outside, and then they are of the tree no
more, as they would not be a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import field

from restorer.errors import ProcessError, Refused, RestorerError
from restorer.procfs import Process
from restorer.record import dataclass
from restorer.tracee import Tracee, Unstoppable, seize

__all__ = ["Frozen", "seize_tree"]

_DEAD = "ZX"
_PATIENCE_S = 5.0
_STUCK_PATIENCE_S = 20.0


@dataclass
class Frozen:
    """The root first, every process after its parent; `zombies` are dead children that nobody has waited
    for. `since`: when the first was stopped, as of time.monotonic.
    """

    since: float

    tracees: list[Tracee] = field(default_factory=list)
    zombies: list[int] = field(default_factory=list)

    @property
    def root(self) -> Tracee:
        """The process that was named."""
        return self.tracees[0]

    @property
    def pids(self) -> list[int]:
        """Those that live, as seen from here."""
        return [tracee.pid for tracee in self.tracees]

    @property
    def threads(self) -> int:
        """Of all of them."""
        return sum(len(tracee.threads) for tracee in self.tracees)

    def kill(self) -> None:
        """SIGKILL to all; waits until they are gone. Nothing works after."""
        for tracee in reversed(self.tracees):
            tracee.kill()


@contextmanager
def seize_tree(pid: int, check: Callable[[], None] = lambda: None) -> Iterator[Frozen]:
    """Stops process `pid` and all that descend from it; on leaving, lets them go with nothing changed.

    Raises as `seize` does, with the whole tree running as before. Who has a thread that waits uninterruptibly
    is waited for, the tree running on, and `check`, which may raise, called meanwhile.
    """
    until = time.monotonic() + _STUCK_PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                frozen = _hold(pid, stack)
                break
            except Unstoppable as error:
                stack.close()
                if not error.wait(until, check):
                    raise
        yield frozen


def _hold(pid: int, stack: ExitStack) -> Frozen:
    frozen = Frozen(time.monotonic())
    dead: set[int] = set()
    frozen.tracees.append(stack.enter_context(seize(pid)))
    while _seize_children(frozen, dead, stack):
        if time.monotonic() - frozen.since > _PATIENCE_S:
            raise ProcessError(
                f"process {pid} has new children faster than they can be held ({_PATIENCE_S:g} s long)",
                "try again when it makes fewer",
            )
    frozen.zombies = sorted(child for child in _children(frozen) if child not in frozen.pids)
    return frozen


def _seize_children(frozen: Frozen, dead: set[int], stack: ExitStack) -> bool:
    """Whether there was a child that was neither held nor known to be dead.

    One that has died since the list was read may have left children of its own at the end of the list.
    """
    known = dead.union(frozen.pids)
    fresh = [child for child in _children(frozen) if child not in known]
    for child in fresh:
        if _is_dead(child):
            dead.add(child)
        else:
            _seize_child(child, frozen, stack)
    return bool(fresh)


def _children(frozen: Frozen) -> Iterator[int]:
    for tracee in frozen.tracees:
        yield from tracee.process.children()


def _is_dead(pid: int) -> bool:
    try:
        status = Process(pid).status
    except ProcessError:
        return True
    return status.state in _DEAD and status.threads <= 1


def _seize_child(pid: int, frozen: Frozen, stack: ExitStack) -> None:
    try:
        frozen.tracees.append(stack.enter_context(seize(pid)))
    except ProcessError:
        if _is_dead(pid):
            return
        raise
    except RestorerError as error:
        raise Refused(f"child process: {error.cause}", error.hint) from None
