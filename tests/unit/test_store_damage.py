# SPDX-License-Identifier: Apache-2.0
"""A damaged store: every read gives the right bytes or a RestorerError, and writing harms nothing more."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from restorer.errors import RestorerError, StoreDamaged
from restorer.snapshot import PAGE_BYTES
from restorer.store import Store, open_store
from restorer.store_format import KEY
from tests.unit.test_store import Pages, folder, in_child, pages, read, sample, store, write

__all__ = ["folder", "store"]  # fixtures


def check_damaged(folder: Path, content: dict[str, Pages]) -> bool:
    """Right bytes or a RestorerError for every read; whether there was an error."""
    errors = 0
    try:
        with open_store(folder) as store:
            for name, expected in content.items():
                try:
                    assert read(store, name) == expected
                except RestorerError:
                    errors += 1
            try:
                images, unreadable = store.images()
                assert {info.name for info in images} <= {"a", "b"} or not store.verify().damages
                errors += len(unreadable)
            except RestorerError:
                errors += 1
            errors += bool(store.verify().damages)
    except RestorerError:
        errors += 1
    return errors > 0


def test_truncation(folder: Path) -> None:
    content = sample(folder)
    data = folder / "data.mdb"
    whole = data.read_bytes()
    with open_store(folder) as store:
        needed = (store.snapshot.meta.last_page + 1) * PAGE_BYTES

    def work() -> None:
        for length in {0, 1, 16, 4095, 4096, 8191, 8192, needed - 1, *range(0, needed, 1777)}:
            data.write_bytes(whole[:length])
            with pytest.raises(StoreDamaged), open_store(folder):
                pass
            with pytest.raises(StoreDamaged), open_store(folder, create=True):
                pass
        data.write_bytes(whole[:needed])
        assert not check_damaged(folder, content)

    in_child(work)


def flips(length: int) -> list[tuple[int, int]]:
    """Where to flip which bit: every tree page densely at its head, everything else thinly."""
    source = random.Random(4)
    dense = [offset for page in range(0, length, PAGE_BYTES) for offset in range(page, page + 40, 3)]
    return [(offset, 1 << source.randrange(8)) for offset in sorted({*dense, *range(0, length, 97)})]


@pytest.mark.parametrize("part", range(4))
def test_flipped_bits_are_noticed_or_harmless(folder: Path, part: int) -> None:
    content = sample(folder)
    data = folder / "data.mdb"
    whole = data.read_bytes()

    def work() -> None:
        noticed = 0
        for offset, bit in flips(len(whole))[part::4]:
            flipped = bytearray(whole)
            flipped[offset] ^= bit
            data.write_bytes(flipped)
            noticed += check_damaged(folder, content)
        assert noticed > 30

    in_child(work)


@pytest.mark.parametrize("part", range(4))
def test_writing_into_a_damaged_store_harms_nothing(folder: Path, part: int) -> None:
    content = sample(folder)
    data = folder / "data.mdb"
    whole = data.read_bytes()

    def work() -> None:
        for offset, bit in flips(len(whole))[part::12]:
            flipped = bytearray(whole)
            flipped[offset] ^= bit
            data.write_bytes(flipped)
            before = readable(folder, content)
            try:
                with open_store(folder) as store:
                    write(store, "new", pages(5, chunks=40))
                    store.collect()
            except RestorerError:
                pass
            assert readable(folder, content) >= before

    in_child(work)


def readable(folder: Path, content: dict[str, Pages]) -> set[str]:
    """The names of the images that can be read in full."""
    names = set()
    try:
        with open_store(folder) as store:
            for name, expected in content.items():
                try:
                    if read(store, name) == expected:
                        names.add(name)
                except RestorerError:
                    pass
    except RestorerError:
        pass
    return names


def test_verify_names_image_address_and_chunk(store: Store, folder: Path) -> None:
    summary = write(store, "demo", pages(1))
    chunk = store.records(summary.map_id, summary.map_check)[2]
    entry = store.snapshot.find("chunks", KEY.pack(chunk.place.seq))
    assert entry is not None
    with (folder / "data.mdb").open("r+b") as file:
        file.seek(entry.offset + chunk.place.offset + chunk.frame_bytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    store.release()
    [damage] = store.verify("demo").damages
    assert (damage.name, damage.addr, (damage.seq, damage.offset)) == ("demo", chunk.addr, chunk.place)
    with pytest.raises(StoreDamaged):
        store.chunk(chunk)
