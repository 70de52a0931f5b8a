# SPDX-License-Identifier: Apache-2.0
"""Who is made with whose table, and where a table is left: on families that live programs do not cover."""

from __future__ import annotations

import pytest

from restorer.errors import Refused
from restorer.program import Image
from restorer.state import births, inheritance, tables
from restorer.state.session import Session
from restorer.state.tables import CLONE_FILES, CLONE_FS, Tables
from restorer.syscalls import NR
from restorer.wire import OpKind


def heirs(
    parents: tuple[int, ...],
    files: tuple[int, ...],
    fs: tuple[int, ...] | None = None,
    sessions: dict[int, int] | None = None,
    lost: frozenset[int] = frozenset(),
) -> births.Births:
    """Processes 10, 11, ..., all in session 10 but for `sessions`."""
    own = sessions or {}
    states = [Session(10 + i, own.get(i, 10), own.get(i, 10), 0, 17) for i in range(len(parents))]
    family = births.arrange(states, parents, [()] * len(states), lost)
    return inheritance.arrange(family, Tables(files, fs or tuple(range(len(parents)))))


def made(tree: births.Births) -> list[list[tuple[int, ...]]]:
    """What each process does that hands tables down: (flags of a fork, its child), or (flags it leaves,)."""
    root = Image()
    images = [root, *(Image(root=root, name=f"main {i}") for i in range(1, len(tree.processes)))]
    births.emit(tree, images, ["name"] * len(images), ())
    found: list[list[tuple[int, ...]]] = []
    for image in images:
        steps: list[tuple[int, ...]] = []
        for op in image.main.ops:
            if op.kind is OpKind.FORK and isinstance(op.args[3], int):
                child = op.args[3]
                steps.append((tree.processes[child].born, child))
            elif op.kind is OpKind.SYSCALL and op.nr == NR.unshare and isinstance(op.args[0], int):
                steps.append((op.args[0],))
        found.append(steps)
    return found


def test_without_sharing_nothing_is_handed_down() -> None:
    family = heirs((-1, 0, 1), (0, 1, 2))
    assert made(family) == [[(0, 1)], [(0, 2)], []]
    assert not tables.apart(3).shared


def test_a_grandchild_has_it_from_a_parent_that_leaves() -> None:
    assert made(heirs((-1, 0, 1), (0, 1, 0))) == [
        [(CLONE_FILES, 1)],
        [(CLONE_FILES, 2), (CLONE_FILES,)],
        [],
    ]


def test_both_kinds_go_their_own_ways() -> None:
    tree = heirs((-1, 0, 0), (0, 0, 2), (0, 1, 1))
    assert made(tree)[0] == [(CLONE_FILES | CLONE_FS, 1), (CLONE_FS, 2), (CLONE_FS,)]


def test_children_of_one_table_are_made_one_after_the_other() -> None:
    """1 and 3 share, 2 and 4 do, 5 shares with the parent: whose turn comes last, since it goes on so."""
    steps = made(heirs((-1, 0, 0, 0, 0, 0), (0, 1, 2, 1, 2, 0)))[0]
    flag = CLONE_FILES
    assert steps == [(flag, 1), (flag, 3), (flag,), (flag, 2), (flag, 4), (flag,), (flag, 5)]


def test_who_leads_a_session_hands_down_to_who_was_born_beside_it() -> None:
    tree = heirs((-1, 0, 0), (0, 1, 1), sessions={1: 11, 2: 11})
    assert made(tree) == [[(0, 1)], [(CLONE_FILES, 2)], []]


@pytest.mark.parametrize(
    ("parents", "files", "pids"),
    [
        # 1 has a table from 0, for 3 below it, and would need another one from 0, that of 2.
        ((-1, 0, 0, 1), (0, 1, 1, 0), "11, 12"),
        # The same a generation on, where the one between keeps what it was made with.
        ((-1, 0, 1, 1), (0, 0, 2, 2), "12, 13"),
    ],
)
def test_what_no_fork_can_make_is_refused(
    parents: tuple[int, ...], files: tuple[int, ...], pids: str
) -> None:
    with pytest.raises(Refused, match=f"the processes {pids} share their file descriptors, and those betw"):
        heirs(parents, files)


def test_before_and_after_a_session_begins_is_one_order() -> None:
    """1 and 4 are made before their parent leads a session, 2 and 3 after it."""
    sessions = {0: 10, 1: 5, 2: 10, 3: 10, 4: 5}
    assert made(heirs((-1, 0, 0, 0, 0), (0, 1, 2, 1, 4), sessions=sessions))[0] == [
        (CLONE_FILES, 1),
        (0, 4),
        (0, 2),
        (CLONE_FILES, 3),
        (CLONE_FILES,),
    ]
    with pytest.raises(Refused, match="in a way that cannot be made again by forking"):
        heirs((-1, 0, 0, 0, 0), (0, 1, 2, 1, 2), sessions=sessions)


def test_those_whom_a_placeholder_makes_share_nothing() -> None:
    with pytest.raises(Refused, match="the processes 11, 12 share their working directory"):
        heirs((-1, 0, 0), (0, 1, 2), (0, 1, 1), sessions={1: 5, 2: 5}, lost=frozenset({5}))
