# SPDX-License-Identifier: Apache-2.0
"""What a pager may do: the program can write its memory, so whatever it could, the program could."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restored, Restorer, pagers, status, wait_until

NAMES = ("verify", "unprivileged")


@pytest.fixture(params=NAMES)
def lazy(
    request: pytest.FixtureRequest, restorer: Restorer, program: Callable[[str], Program]
) -> tuple[Program, Restored, int]:
    """One with all the powers of root and one without, restored without their memory, and their pager."""
    started = program(request.param)
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--fill", "none")
    (pager,) = pagers(restored.pid)
    wait_until(lambda: status(pager, "Seccomp") == "2", "the pager's filter")
    return started, restored, pager


def test_credentials(lazy: tuple[Program, Restored, int]) -> None:
    _, restored, pager = lazy
    for thread in os.listdir(f"/proc/{pager}/task"):
        for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status(int(thread), field), 16) == 0, field
        assert (status(int(thread), "NoNewPrivs"), status(int(thread), "Seccomp")) == ("1", "2")
        for field in ("Uid", "Gid", "Groups"):
            assert status(int(thread), field) == status(restored.pid, field), field


def test_descriptors(lazy: tuple[Program, Restored, int]) -> None:
    """Its own five and no other; none of them opens a way to somebody else's."""
    _, _, pager = lazy
    found = {int(entry.name): os.readlink(entry) for entry in Path(f"/proc/{pager}/fd").iterdir()}
    assert sorted(found) == [0, 1, 2, 3, 6]
    assert found[0] == "anon_inode:[userfaultfd]"
    assert found[1].endswith("/data.mdb")
    assert found[2].startswith("socket:")
    assert "pidfd" in found[3] and "pidfd" in found[6]
    flags = Path(f"/proc/{pager}/fdinfo/1").read_text().split("flags:\t")[1].split()[0]
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY


def test_it_shares_the_memory_and_nothing_else(lazy: tuple[Program, Restored, int]) -> None:
    started, restored, pager = lazy
    assert os.readlink(f"/proc/{pager}/exe") == os.readlink(f"/proc/{restored.pid}/exe")
    assert status(pager, "Tgid") != status(restored.pid, "Tgid")
    assert os.getpgid(pager) == pager
    assert os.getsid(pager) == os.getsid(restored.pid)
    assert "Max core file size        0                    0" in Path(f"/proc/{pager}/limits").read_text()
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()
