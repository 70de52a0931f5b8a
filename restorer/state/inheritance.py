# SPDX-License-Identifier: Apache-2.0
"""Who is made with whose table of descriptors, and whose directories.

Nobody can join one: it is had from who forks, by CLONE_FILES or CLONE_FS, or it is a copy. So between those
that share, everybody up to the process above them all is made with what they share; and who is not to have it
itself leaves it, by unshare(2), when all have been made that are to have it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from restorer.errors import Refused
from restorer.state.births import Birth, Births
from restorer.state.tables import CLONE_FILES, CLONE_FS, WHAT, Tables

# What makes processes: one of them, by its index, or the placeholder of a session, by minus its number.
_Maker = int


def arrange(births: Births, tables: Tables) -> Births:
    """The same tree, with who hands what down; children may change places. Raises Refused for sharing that
    cannot be made again by forking.
    """
    if not tables.shared:
        return births
    makers = _makers(births)
    kinds = [
        _Kind(CLONE_FILES, tables.files, births, makers),
        _Kind(CLONE_FS, tables.fs, births, makers),
    ]
    found = list(births.processes)
    for index in range(len(found)):
        _arrange_one(index, found, kinds)
    return Births(tuple(found))


def _makers(births: Births) -> dict[int, _Maker]:
    pids = {one.session.pid: index for index, one in enumerate(births.processes)}
    makers: dict[int, _Maker] = {}
    for index, one in enumerate(births.processes):
        makers |= dict.fromkeys((*one.before, *one.after), index)
        for orphans in one.orphans:
            leader = pids[orphans.session] if orphans.alive else -orphans.session
            makers |= dict.fromkeys(orphans.children, leader)
            if not orphans.alive:
                makers[leader] = index
    return makers


class _Kind:
    """One kind of table: `edges` says which of them, by the first process that has it, each process is made
    with; `kept` which one a process shares in the end.
    """

    def __init__(
        self, flag: int, firsts: Sequence[int], births: Births, makers: Mapping[int, _Maker]
    ) -> None:
        self.flag = flag
        self._firsts = firsts
        self._births = births
        self.edges: dict[int, int] = {}
        for first in sorted({one for index, one in enumerate(firsts) if one != index}):
            self._add(first, [_path(index, makers) for index in self._members(first)])

    def _members(self, first: int) -> list[int]:
        return [index for index, one in enumerate(self._firsts) if one == first]

    def kept(self, index: int) -> int | None:
        """The table that a process shares with others in the end."""
        first = self._firsts[index]
        return first if len(self._members(first)) > 1 else None

    def _add(self, first: int, paths: Sequence[Sequence[_Maker]]) -> None:
        common = 0
        while len({path[common] if common < len(path) else None for path in paths}) == 1:
            common += 1
        for index in (node for path in paths for node in path[common:]):
            if index < 0 or self.edges.setdefault(index, first) != first:
                raise self.refused(first)
        if paths[0][common - 1] < 0:
            raise self.refused(first)

    def order(self, index: int, children: Sequence[int]) -> dict[int, int]:
        """In which turn each child is made, so that those of one table follow each other: those of the table
        that the process is made with first, those of the one that it keeps last.
        """
        born, kept = self.edges.get(index), self.kept(index)
        wanted = [self.edges[child] for child in children if child in self.edges]
        if born is not None and born == kept and any(one != born for one in wanted):
            raise self.refused(next(one for one in wanted if one != born))
        others = [one for one in dict.fromkeys(wanted) if one not in (born, kept)]
        turns = [*([] if born is None else [born]), *others, *([kept] if kept not in (None, born) else [])]
        found: dict[int, int] = {}
        turn = 0
        for child in children:
            turn = turns.index(self.edges[child]) if child in self.edges else turn
            found[child] = turn
        return found

    def refused(self, first: int) -> Refused:
        """The exception for one table."""
        pids = ", ".join(str(self._births.processes[index].session.pid) for index in self._members(first))
        return Refused(
            f"the processes {pids} share their {WHAT[self.flag]}, and those between them do in a way that "
            "cannot be made again by forking",
            "end all but one of them first",
        )


def _path(index: int, makers: Mapping[int, _Maker]) -> list[_Maker]:
    """From the root down to a process."""
    path: list[_Maker] = [index]
    while path[-1] in makers:
        path.append(makers[path[-1]])
    return path[::-1]


def _arrange_one(index: int, found: list[Birth], kinds: Sequence[_Kind]) -> None:
    """Puts the children of one process in their order, and marks where it leaves a table."""
    one = found[index]
    led = found[one.parent].orphans_of(one.session.pid) if one.parent >= 0 else ()
    turns = [kind.order(index, (*one.before, *one.after, *led)) for kind in kinds]

    def place(child: int) -> tuple[int, ...]:
        return tuple(each[child] for each in turns)

    before, after = tuple(sorted(one.before, key=place)), tuple(sorted(one.after, key=place))
    children = (*before, *after, *led)
    born = leaves = 0
    for kind, turn in zip(kinds, turns, strict=True):
        for last, child in pairwise(children):
            if turn[last] > turn[child]:
                raise kind.refused(kind.edges.get(child, min(kind.edges.values())))
        born |= kind.flag if index in kind.edges else 0
        current = kind.edges.get(index)
        for child in children:
            wanted = kind.edges.get(child, current)
            if current is not None and wanted != current:
                found[child] = replace(found[child], apart=found[child].apart | kind.flag)
            current = wanted
        leaves |= kind.flag if current is not None and current != kind.kept(index) else 0
    found[index] = replace(found[index], before=before, after=after, born=born, leaves=leaves)
