# SPDX-License-Identifier: Apache-2.0
"""Packs: neighbouring new chunks in one value of `chunks`, each found by its offset."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from restorer.errors import StoreDamaged
from restorer.model import Chunk, Place
from restorer.store import Store, open_store, processes
from restorer.store_format import KEY, Frame, frame_check, pack_hash, unpack_hash
from restorer.store_writer import PACK_BYTES, PACK_FRAMES
from restorer.wire import CHUNK_BYTES
from tests.unit.golden import unpack
from tests.unit.test_store import Pages, mask_of, pages, read, write, write_tree

FOLDER = Path("store")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", create=True) as opened:
        yield opened


def noise(seed: int, chunks: int) -> Pages:
    """Chunks that do not get smaller."""
    source = random.Random(seed)
    return {i * CHUNK_BYTES: source.randbytes(CHUNK_BYTES) for i in range(chunks)}


def chunks_of(store: Store, name: str) -> list[Chunk]:
    return [
        chunk
        for process in processes(store.load(name))
        for chunk in store.records(process.map_id, process.map_check)
    ]


def packs(store: Store) -> dict[int, int]:
    """Sequence number and length of each value."""
    return {KEY.unpack(entry.key)[0]: entry.length for entry in store.snapshot.entries("chunks")}


def version(store: Store) -> int:
    return int.from_bytes(store.snapshot.get("meta", b"version") or b"", "little")


def put_hash(store: Store, digest: bytes, value: bytes) -> None:
    with store.changing() as txn:
        txn.put(digest, value, db=store.env.open_db(b"hashes", txn=txn, create=False))
        txn.commit()


def hash_of(store: Store, place: Place) -> tuple[bytes, Frame]:
    for entry in store.snapshot.entries("hashes"):
        frame = unpack_hash(FOLDER, entry.key, store.snapshot.read(entry))
        if frame.place == place:
            return entry.key, frame
    raise AssertionError(place)


def flip(store: Store, chunk: Chunk) -> None:
    """The last bit of its frame."""
    entry = store.snapshot.find("chunks", KEY.pack(chunk.place.seq))
    assert entry is not None
    with (store.path / "data.mdb").open("r+b") as file:
        file.seek(entry.offset + chunk.place.offset + chunk.frame_bytes - 1)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    store.release()


def test_neighbours_lie_one_behind_the_other(store: Store) -> None:
    content = pages(1, chunks=40)
    write(store, "demo", content)
    chunks = chunks_of(store, "demo")
    assert [chunk.place.seq for chunk in chunks] == [1] * PACK_FRAMES + [2] * PACK_FRAMES + [3] * 8
    end = 0
    for chunk in chunks:
        assert chunk.place.offset in (0, end)
        end = chunk.place.offset + chunk.frame_bytes
        assert packs(store)[chunk.place.seq] >= end
    assert sum(packs(store).values()) == sum(chunk.frame_bytes for chunk in chunks)
    assert read(store, "demo") == content


def test_a_pack_is_full_at_its_bytes(store: Store) -> None:
    write(store, "demo", noise(1, 10))
    lengths = list(packs(store).values())
    assert len(lengths) == 3
    assert all(PACK_BYTES <= length < PACK_BYTES + CHUNK_BYTES for length in lengths[:2])
    assert read(store, "demo") == noise(1, 10)


def test_scattered_new_chunks_share_a_pack(store: Store) -> None:
    content = pages(1, chunks=400)
    write(store, "first", content)
    before = packs(store)
    changed = pages(2, chunks=12)
    for i, data in enumerate(changed.values()):
        content[list(content)[i * 33]] = data
    summary = write(store, "second", content)
    assert (summary.new_chunks, summary.reused_chunks) == (12, 388)
    assert summary.new_bytes == sum(packs(store).values()) - sum(before.values())
    assert len(packs(store)) == len(before) + 1
    assert read(store, "second") == content
    assert store.verify().damages == []


def test_neighbouring_maps_share_a_pack(store: Store) -> None:
    summaries = write_tree(store, "tree", [pages(1), pages(2)])
    assert len(packs(store)) == 1
    assert [summary.new_chunks for summary in summaries] == [6, 6]
    assert sum(summary.new_bytes for summary in summaries) == packs(store)[1]
    parts = [store.chunk(chunk) for chunk in chunks_of(store, "tree")]
    assert parts == [*pages(1).values(), *pages(2).values()]


def test_a_store_of_format_3_becomes_one_of_4(tmp_path: Path) -> None:
    unpack("store-3-image-3.mdb.zst", tmp_path)
    with open_store(tmp_path) as store:
        assert version(store) == 3
        with store.writer("abandoned") as writer:
            for addr, data in pages(7).items():
                writer.add(addr, mask_of(data), 0, data)
            writer.finish_map()
        assert version(store) == 3
        write(store, "new", pages(8))
        assert version(store) == 4
        assert read(store, "demo") == pages(1)
        # Those of before have no offset.
        assert {len(store.snapshot.read(entry)) for entry in store.snapshot.entries("hashes")} == {20, 24}
        assert store.verify().damages == []


def test_a_pack_lives_with_its_last_chunk(store: Store) -> None:
    content = pages(1, chunks=16)
    write(store, "whole", content)
    last = dict([list(content.items())[15]])
    write(store, "part", last)
    [pack] = packs(store).values()
    used = chunks_of(store, "part")[0].frame_bytes
    store.remove("whole")
    kept = store.collect()
    assert (kept.images, kept.chunks, kept.unused_bytes) == (1, 0, pack - used)
    assert (read(store, "part"), store.verify().damages) == (last, [])
    store.remove("part")
    gone = store.collect()
    assert (gone.chunks, gone.unused_bytes, packs(store)) == (16, 0, {})
    assert list(store.snapshot.entries("hashes")) == []
    assert write(store, "new", content).new_chunks == 16


def test_what_lives_on_in_a_pack_is_found_again(store: Store) -> None:
    content = pages(1, chunks=16)
    write(store, "whole", content)
    write(store, "most", dict(list(content.items())[:12]))
    store.remove("whole")
    assert store.collect().unused_bytes > 0
    assert write(store, "again", content).new_chunks == 0
    assert store.collect().unused_bytes == 0


def leave_sparse(store: Store) -> Pages:
    """The content of image `old`: the last of the 16 chunks of a pack."""
    content = pages(1, chunks=16)
    last = dict([list(content.items())[15]])
    write(store, "whole", content)
    write(store, "old", last)
    store.remove("whole")
    store.collect()
    return last


def test_a_sparse_pack_is_left_behind(store: Store) -> None:
    """New images refer to nothing in it, so that it goes with the old ones."""
    last = leave_sparse(store)
    assert write(store, "new", last).new_chunks == 1
    assert (read(store, "old"), read(store, "new"), len(packs(store))) == (last, last, 2)
    assert store.verify().damages == []
    assert store.verify("old").damages == []
    store.collect()
    assert (read(store, "old"), store.verify().damages) == (last, [])
    store.remove("old")
    assert store.collect().unused_bytes == 0
    assert packs(store) == {2: chunks_of(store, "new")[0].frame_bytes}
    assert (read(store, "new"), store.verify().damages) == (last, [])


def test_a_chunk_that_lost_its_hash_is_checked(store: Store) -> None:
    last = leave_sparse(store)
    write(store, "new", last)
    store.remove("new")
    store.collect()
    assert (read(store, "old"), store.verify().damages) == (last, [])
    flip(store, chunks_of(store, "old")[0])
    assert [damage.name for damage in store.verify().damages] == ["old"]


def test_random_lives(store: Store) -> None:
    """Checkpoints that share what they can, names that go, collections in between: right bytes, no damage."""
    source = random.Random(7)
    images: dict[str, Pages] = {}
    content = pages(1, chunks=60)
    for step in range(60):
        for addr in source.sample(list(content), source.choice([0, 1, 5, 40])):
            content[addr] = next(iter(pages(source.randrange(100, 160), chunks=1).values()))
        if images and source.random() < 0.5:
            name = source.choice(list(images))
            store.remove(name)
            del images[name]
        if source.random() < 0.5:
            store.collect()
        part = source.randint(1, len(content))
        images[f"image{step}"] = dict(list(content.items())[:part])
        write(store, f"image{step}", images[f"image{step}"])
        assert store.verify().damages == []
        for name, expected in images.items():
            assert read(store, name) == expected
    for name in images:
        store.remove(name)
    assert store.collect().unused_bytes == 0
    assert (packs(store), list(store.snapshot.entries("hashes"))) == ({}, [])


def test_hash_values() -> None:
    for offset in (0, 1, 262143):
        frame = Frame(Place(7, offset), 0x12345678, 9000)
        value = pack_hash(b"d" * 16, frame)
        assert len(value) == (24 if offset else 20)
        assert unpack_hash(FOLDER, b"d" * 16, value) == frame


@pytest.mark.parametrize("offset", [0, 8191])
def test_a_hash_value_with_any_bit_flipped_is_damaged(offset: int) -> None:
    value = pack_hash(b"d" * 16, Frame(Place(7, offset), 0x12345678, 9000))
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreDamaged, match="wrong value"):
            unpack_hash(FOLDER, b"d" * 16, bytes(flipped))
    for wrong in (value[:-4], value[:-1], value + b"\0", value + bytes(4), b""):
        with pytest.raises(StoreDamaged, match="wrong value"):
            unpack_hash(FOLDER, b"d" * 16, wrong)


def test_wrong_places_are_damage(store: Store) -> None:
    """Any offset or length but the right one gives an error: never other bytes."""
    write(store, "demo", pages(1))
    chunk = chunks_of(store, "demo")[2]
    end = packs(store)[chunk.place.seq]
    source = random.Random(1)
    offsets = {0, end - 1, end, end + 1, 1 << 31, (1 << 32) - 1, *(source.randrange(end) for _ in range(200))}
    for offset in offsets - {chunk.place.offset}:
        with pytest.raises(StoreDamaged, match=re.escape(f"chunk 1+{offset} ")):
            store.chunk(replace(chunk, place=Place(1, offset)))
    lengths = {0, 1, 4, end, end + 1, (1 << 32) - 1, *(source.randrange(end) for _ in range(200))}
    for length in lengths - {chunk.frame_bytes}:
        with pytest.raises(StoreDamaged, match=re.escape(f"chunk {chunk.place} ")):
            store.chunk(replace(chunk, frame_bytes=length))
    with pytest.raises(StoreDamaged, match="is missing"):
        store.chunk(replace(chunk, place=Place(9, 0)))
    assert store.chunk(chunk) == list(pages(1).values())[2]


def test_verify_finds_hashes_that_lead_astray(store: Store) -> None:
    write(store, "demo", pages(1))
    chunk = chunks_of(store, "demo")[2]
    digest, frame = hash_of(store, chunk.place)
    for wrong in (
        frame._replace(place=Place(1, frame.place.offset + 1)),
        frame._replace(place=Place(1, 0)),
        frame._replace(place=Place(1, 1 << 31)),
        frame._replace(place=Place(2, frame.place.offset)),
        frame._replace(frame_bytes=frame.frame_bytes + 1),
        frame._replace(check=frame.check ^ 1),
    ):
        put_hash(store, digest, pack_hash(digest, wrong))
        for name in (None, "demo"):
            assert store.verify(name).damages, wrong
    put_hash(store, digest, pack_hash(digest, frame))
    assert store.verify().damages == []


def test_verify_finds_bytes_that_belong_to_no_chunk(store: Store) -> None:
    write(store, "demo", pages(1))
    whole = store.snapshot.get("chunks", KEY.pack(1))
    assert whole is not None
    with store.changing() as txn:
        txn.put(KEY.pack(1), whole + b"more", db=store.env.open_db(b"chunks", txn=txn, create=False))
        txn.commit()
    [damage] = store.verify().damages
    assert damage.cause == f"pack 1 has {len(whole) + 4} bytes, its chunks have {len(whole)}"


def test_verify_reads_chunks_that_no_image_uses(store: Store, tmp_path: Path) -> None:
    """The next checkpoint refers to them without reading them."""
    content = pages(1)
    write(store, "whole", content)
    chunk = chunks_of(store, "whole")[2]
    write(store, "part", dict(list(content.items())[3:]))
    store.remove("whole")
    store.collect()
    flip(store, chunk)
    assert store.verify("part").damages == []
    [damage] = store.verify().damages
    assert (damage.name, damage.seq, damage.offset) == ("", 1, chunk.place.offset)


def test_checks_are_the_last_bytes_of_each_frame(store: Store) -> None:
    write(store, "demo", pages(1))
    value = store.snapshot.get("chunks", KEY.pack(1))
    assert value is not None
    for chunk in chunks_of(store, "demo"):
        frame = value[chunk.place.offset :][: chunk.frame_bytes]
        assert frame_check(frame) == chunk.check
