# SPDX-License-Identifier: Apache-2.0
"""What processes of a tree share beside memory: a table of descriptors (CLONE_FILES), or the working
directory, root and umask, which the kernel keeps together (CLONE_FS).

The first of those that share puts it back, for all of them; inheritance.py says how the others come to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from restorer.errors import Refused
from restorer.record import dataclass
from restorer.state.sharing import KCMP_FILES, KCMP_FS, Objects
from restorer.tracee import Tracee

CLONE_FS, CLONE_FILES = 0x200, 0x400
WHAT = {CLONE_FILES: "file descriptors", CLONE_FS: "working directory"}


@dataclass(frozen=True)
class Tables:
    """By process, the index of the first one that has the same descriptors, or the same directories: its own
    index where that is itself.
    """

    files: tuple[int, ...]
    fs: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether anything is shared at all."""
        alone = tuple(range(len(self.files)))
        return self.files != alone or self.fs != alone

    def sharers(self, index: int) -> tuple[int, ...]:
        """All who have the descriptors of process `index`, itself included."""
        return tuple(other for other, first in enumerate(self.files) if first == self.files[index])

    def rank(self, index: int) -> int:
        """How many of them come before it."""
        return self.sharers(index).index(index)

    @property
    def most(self) -> int:
        """How many have one table, where that is most."""
        return max(Counter(self.files).values())


def apart(count: int) -> Tables:
    """So many processes that share nothing."""
    return Tables(tuple(range(count)), tuple(range(count)))


def capture(tracees: Sequence[Tracee]) -> Tables:
    """Who shares with whom. Raises Refused for a thread that shares its directories with another process, and
    not with the others of its own. Of descriptors, unsupported.py has found no such thread.
    """
    directories = Objects(KCMP_FS)
    fs = _firsts(tracees, directories)
    for index, tracee in enumerate(tracees):
        for thread in tracee.threads[1:]:
            found = directories.find(thread.tid)
            if found is None:
                directories.add(thread.tid, index)
            elif found not in (index, fs[index]):
                raise Refused(
                    f"thread {thread.tid} of process {tracee.pid} shares its working directory with process "
                    f"{tracees[found].pid}, and not with the other threads of its own",
                    "end one of the two first",
                )
    return Tables(_firsts(tracees, Objects(KCMP_FILES)), fs)


def _firsts(tracees: Sequence[Tracee], known: Objects) -> tuple[int, ...]:
    found: list[int] = []
    for index, tracee in enumerate(tracees):
        first = known.find(tracee.pid)
        if first is None:
            known.add(tracee.pid, index)
        found.append(index if first is None else first)
    return tuple(found)
