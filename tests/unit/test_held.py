# SPDX-License-Identifier: Apache-2.0
"""Memory that is held until the process runs again reaches the store as if it had gone there at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from restorer import held
from restorer.held import Held
from restorer.store import Store, open_store
from tests.unit.test_packs import chunks_of
from tests.unit.test_store import mask_of, pages, seal, write

SPACES = (pages(1), pages(2), pages(3, chunks=100))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.mark.parametrize("room", [0, 1, 4096, 300_000, 1 << 20, 1 << 40])
def test_all_of_it_in_order(store: Store, room: int) -> None:
    """Whatever is held: nothing, all, a part of the first address space or all but a part of the last."""
    for seed, space in enumerate(SPACES):
        write(store, f"alone{seed}", space)
    with store.writer("held") as writer:
        keeps = Held(writer, room)
        for space in SPACES:
            for addr, data in space.items():
                keeps.add(addr, mask_of(data), 0, memoryview(bytearray(data)))
            keeps.end_map()
        maps = keeps.settle(lambda: None)
        assert [one.reused_chunks for one in maps] == [len(space) for space in SPACES]
        writer.commit(seal(writer.image_id, maps))
    assert [store.chunk(chunk) for chunk in chunks_of(store, "held")] == [
        data for space in SPACES for data in space.values()
    ]


def test_the_check_ends_it(store: Store) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError), store.writer("held") as writer:
        keeps = Held(writer, 1 << 40)
        for addr, data in pages(1, chunks=200).items():
            keeps.add(addr, mask_of(data), 0, data)
        keeps.end_map()
        keeps.settle(stop)
    assert store.refs() == {}


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("", 25_600),
        ("0::/free\n", 25_600),
        ("0::/tight\n", 1_000),
        ("0::/over\n", 0),
        ("5:memory:/old\n4:cpu:/tight\n", 500),
        ("0::/not/there\n", 25_600),
    ],
)
def test_what_may_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, expected: int
) -> None:
    limits = {"free": ("max", 1), "tight": (6000, 2000), "over": (1000, 2000)}
    for name, (most, used) in limits.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(f"{most}\n")
        (tmp_path / name / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory" / "old").mkdir(parents=True)
    (tmp_path / "memory" / "old" / "memory.limit_in_bytes").write_text("2500\n")
    (tmp_path / "memory" / "old" / "memory.usage_in_bytes").write_text("500\n")
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:  100 kB\n")
    monkeypatch.setattr(held, "_CGROUPS", tmp_path)
    monkeypatch.setattr(held, "_MEMINFO", tmp_path / "meminfo")
    assert held.spare_bytes(cgroup) == expected
