# SPDX-License-Identifier: Apache-2.0
"""Huge pages of hugetlbfs when the machine has too few of them, and one of 1 GiB."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.live.harness import HUGE_PAGES, HugePages, Program, Restored, Restorer, descendants

pytestmark = pytest.mark.alone("hugetlb")

Pool = Callable[..., HugePages]
Start = Callable[[str], Program]


@pytest.fixture
def pool(huge_pages: Pool) -> HugePages:
    """Pages of 2 MiB; what the program wants is added to them when it starts."""
    return huge_pages(0)


def test_pool_is_too_small(restorer: Restorer, program: Start, pool: HugePages) -> None:
    """One line that says what to do, nothing stays; with as many as it says the restore works."""
    pages, _ = HUGE_PAGES["hugetlb"]
    others = descendants(os.getpid())
    started, before = program("hugetlb"), pool.used
    assert before == pages
    restorer.take(started)
    assert pool.used == 0
    pool.add(pages - 1)
    message = restorer.fails("restore", "image", "-d", code=125)
    assert f"{pages} huge pages of 2 MiB" in message and "raise nr_hugepages" in message
    assert pool.used == 0 and descendants(os.getpid()) == others
    pool.add(pages)
    restored = restorer.restore("image")
    assert pool.used == pages
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


def test_pool_shrinks_meanwhile(restorer: Restorer, program: Start, pool: HugePages) -> None:
    """A segment with pages of its own is not counted before; it is named when it cannot be made."""
    restorer.take(started := program("hugetlb_sysv"))
    pool.add(2)
    message = restorer.fails("restore", "image", "-d", code=125)
    assert "System V shared memory" in message and "raise nr_hugepages" in message
    assert pool.used == 0
    pool.add(3)
    restored = restorer.restore("image")
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


def test_a_page_of_1_gib(roundtrip: Callable[..., Restored]) -> None:
    roundtrip("hugetlb_gigantic")
