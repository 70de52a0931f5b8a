# SPDX-License-Identifier: Apache-2.0
"""Working sets: recordings folded in, packed, checked, and gone with their image."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from restorer.errors import ImageNotFound, StoreError
from restorer.native import lib, size_of
from restorer.store import ProcessEntry, Store, open_store, processes
from restorer.store_format import KEY
from restorer.store_hot import BLOCK, BLOCK_BYTES, BLOCK_CHUNKS, HOT, RECORDING, USE, check_hot
from tests.unit.golden import unpack
from tests.unit.test_store import mask_of, pages, read, seal

EAGER = 2  # the record that must be there before resume


def write(store: Store, name: str, seed: int = 1, chunks: int = 40) -> None:
    with store.writer(name) as writer:
        for i, (addr, data) in enumerate(pages(seed, chunks).items()):
            writer.add(addr, mask_of(data), int(i == EAGER), data)
        writer.commit(seal(writer.image_id, [writer.finish_map()]))


def process_of(store: Store, name: str) -> ProcessEntry:
    return processes(store.load(name))[0]


def record(store: Store, name: str, uses: list[tuple[int, int]], tag: str = "1") -> Path:
    """What a restore with --record leaves: (record, microseconds after resume)."""
    image_id = store.ref(name).image_id
    folder = store.path / "recordings"
    folder.mkdir(exist_ok=True)
    path = folder / f"{image_id:016x}-{tag}"
    head = RECORDING.pack(b"RSTRREC\0", image_id, process_of(store, name).map_check, len(uses))
    path.write_bytes(head + b"".join(USE.pack(*use) for use in uses))
    return path


def packed(store: Store, name: str) -> tuple[list[int], int]:
    """The chunks of the working set in order, and how many of them come before resume."""
    value = store.snapshot.get("hot", KEY.pack(process_of(store, name).map_id))
    assert value is not None
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(value)
    _, _, _, blocks, chunks, eager_blocks = HOT.unpack_from(raw)
    table = [BLOCK.unpack_from(raw, HOT.size + i * BLOCK.size) for i in range(blocks)]
    at = HOT.size + blocks * BLOCK.size
    order = [int.from_bytes(raw[at + 4 * i : at + 4 * i + 4], "little") for i in range(chunks)]
    return order, sum(block[4] for block in table[:eager_blocks])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", create=True) as opened:
        write(opened, "demo")
        yield opened


def test_structures() -> None:
    assert (HOT.size, BLOCK.size) == (size_of("struct wr_hot"), size_of("struct wr_hot_block"))
    assert (RECORDING.size, USE.size) == (size_of("struct wr_recording"), size_of("struct wr_use"))
    assert (BLOCK_BYTES, BLOCK_CHUNKS) == (lib.WR_HOT_BLOCK_BYTES, lib.WR_HOT_BLOCK_CHUNKS)


def test_until_the_program_is_quiet_comes_before_resume(store: Store) -> None:
    path = record(store, "demo", [(7, 10), (3, 900), (30, 20_000), (12, 60_000), (5, 60_010)])
    done = store.optimize("demo")
    assert (done.recordings, done.chunks, path.exists()) == (1, 5, False)
    assert packed(store, "demo") == ([EAGER, 7, 3, 30, 12, 5], 4)
    assert store.verify().damages == []


def test_recordings_add_up(store: Store) -> None:
    record(store, "demo", [(7, 10), (3, 900)])
    store.optimize("demo")
    record(store, "demo", [(9, 100), (8, 90_000)], "2")
    record(store, "demo", [(3, 5), (11, 100), (9, 70_000)], "3")
    assert store.optimize("demo").recordings == 2
    assert packed(store, "demo") == ([EAGER, 7, 3, 9, 11, 8], 5)
    assert store.optimize("demo").chunks == 6  # the one that is always there is known by now


def test_a_recording_of_something_else_changes_nothing(store: Store) -> None:
    write(store, "other", seed=2)
    record(store, "demo", [(1, 1)]).write_bytes(b"RSTRREC\0 cut off")
    wrong = bytearray(record(store, "other", [(1, 1)]).read_bytes())
    wrong[-8:-4] = (1 << 31).to_bytes(4, "little")  # no such chunk
    record(store, "other", [(1, 1)]).write_bytes(wrong)
    assert (store.optimize("demo").chunks, store.optimize("other").chunks) == (0, 0)
    assert store.snapshot.get("hot", KEY.pack(store.ref("demo").image_id)) is None


def test_reset(store: Store) -> None:
    record(store, "demo", [(7, 10)])
    store.optimize("demo")
    path = record(store, "demo", [(8, 10)])
    assert store.optimize("demo", reset=True).chunks == 0
    assert not path.exists() and list(store.snapshot.entries("hot")) == []


def test_no_such_image(store: Store) -> None:
    with pytest.raises(ImageNotFound):
        store.optimize("nothing")


def test_goes_with_its_image(store: Store) -> None:
    record(store, "demo", [(7, 10)])
    store.optimize("demo")
    path = record(store, "demo", [(8, 10)])
    write(store, "other")
    kept = record(store, "other", [(8, 10)])
    store.remove("demo")
    store.collect()
    assert list(store.snapshot.entries("hot")) == []
    assert (path.exists(), kept.exists()) == (False, True)


def test_verify_finds_damage(store: Store) -> None:
    record(store, "demo", [(7, 10), (3, 20)])
    store.optimize("demo")
    entry = next(iter(store.snapshot.entries("hot")))
    with (store.path / "data.mdb").open("r+b") as file:
        file.seek(entry.offset + entry.length - 20)
        file.write(b"damage")
    causes = [damage.cause for damage in store.verify().damages]
    assert len(causes) == 1 and "working set" in causes[0]


def test_verify_compares_pages(store: Store) -> None:
    record(store, "demo", [(7, 10), (3, 20)])
    store.optimize("demo")
    process = process_of(store, "demo")
    chunks = store.records(process.map_id, process.map_check)
    chunks[7], chunks[3] = chunks[3], chunks[7]
    with pytest.raises(Exception, match="holds other pages"):
        check_hot(store, store.ref("demo").image_id, process, chunks)


def sample(folder: Path) -> None:
    """A store with one image and its working set."""
    with open_store(folder, create=True) as store:
        write(store, "demo", chunks=6)
        record(store, "demo", [(5, 10), (0, 20), (3, 90_000)])
        store.optimize("demo")


@pytest.mark.parametrize("golden", ["store-3-image-3.mdb.zst", "store-4-image-3.mdb.zst"])
def test_golden(tmp_path: Path, golden: str) -> None:
    """A store of each format that is read, with images of version 3: it is read, and written on."""
    unpack(golden, tmp_path)
    with open_store(tmp_path) as store:
        assert packed(store, "demo") == ([EAGER, 5, 0, 3], 3)
        assert read(store, "demo") == pages(1)
        write(store, "more", chunks=12)
        assert read(store, "more") == pages(1, chunks=12)
        assert store.snapshot.get("meta", b"version") == (4).to_bytes(4, "little")
        assert store.optimize("demo").chunks == 4
        assert store.verify().damages == []
        store.remove("demo")
        store.collect()
        assert read(store, "more") == pages(1, chunks=12)
        assert store.verify().damages == []


def test_older_images_are_refused_by_number(tmp_path: Path) -> None:
    unpack("store-3.mdb.zst", tmp_path)
    with open_store(tmp_path) as store, pytest.raises(StoreError, match="has format 2, this restorer knows"):
        store.load("demo")


def test_older_images_are_not_damaged(tmp_path: Path) -> None:
    unpack("store-3.mdb.zst", tmp_path)
    with open_store(tmp_path) as store:
        found = store.verify()
    assert (found.damages, found.images) == ([], 0)
    [unread] = found.unread
    assert unread.name == "demo" and "has format 2, this restorer knows" in unread.cause
    command = [sys.executable, "-m", "restorer", "verify", "--store", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == 1 and said[0].endswith("use the restorer that wrote it, or restorer rm demo")
    assert said[-1].endswith("nothing is damaged; 1 image of another format not looked at")


def test_older_images_do_not_hide_others(tmp_path: Path) -> None:
    unpack("store-3.mdb.zst", tmp_path)
    with open_store(tmp_path) as store:
        write(store, "new")
        images, unreadable = store.images()
    assert ([image.name for image in images], list(unreadable)) == (["new"], ["demo"])
