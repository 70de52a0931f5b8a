# SPDX-License-Identifier: Apache-2.0
"""A damaged store gives an error, or SIGBUS at the page that is lost; never wrong bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from restorer import wire
from restorer.model import Chunk, Place
from restorer.snapshot import Entry
from restorer.store import Store, open_store, processes
from restorer.store_format import KEY, REF, Frame, chunk_hash, frame_check, pack_hash
from tests.live.harness import Program, Restored, Restorer, build, kill_all

WINDOW = 1 << 16


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """`verify`, stored in a folder of its own."""
    folder = tmp_path_factory.mktemp("damage")
    program = Program("verify", build("verify"), folder)
    program.start()
    Restorer(folder / "store").checkpoint(program.pid)
    program.reap()
    yield program


@pytest.fixture
def copy(original: Program, restorer: Restorer) -> Path:
    """data.mdb of a copy of the store, to be damaged."""
    original.reset()
    shutil.copytree(original.workdir / "store", restorer.store)
    return restorer.store / "data.mdb"


def outcome(restorer: Restorer, original: Program, fill: str) -> str:
    """error (said in one line), died (without a result), or ok; anything else fails."""
    done = restorer.run("restore", "image", "-d", "--json", "--fill", fill)
    if done.returncode:
        assert done.returncode == 125 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        return "error"
    pid = json.loads(done.stdout)["pid"]
    try:
        restored = Restored(pid, 0, os.pidfd_open(pid))
    except ProcessLookupError:
        return "died"
    original.go()
    said = original.result(restored)
    kill_all([pid])
    assert said in ("", "ok\n"), said
    return "ok" if said else "died"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_one_byte(copy: Path, restorer: Restorer, original: Program, seed: int, fill: str) -> None:
    flip(copy, random.Random(seed).randrange(copy.stat().st_size))
    outcome(restorer, original, fill)


@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_a_byte_in_every_chunk(copy: Path, restorer: Restorer, original: Program, fill: str) -> None:
    for offset in range(2 * WINDOW, copy.stat().st_size, WINDOW // 2):
        flip(copy, offset)
    assert outcome(restorer, original, fill) in ("error", "died")
    assert restorer.run("verify", "image").returncode == 1


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated(copy: Path, restorer: Restorer, original: Program, kept: float) -> None:
    os.truncate(copy, int(copy.stat().st_size * kept))
    assert outcome(restorer, original, "background") in ("error", "died")


def test_truncated_while_loading(copy: Path, restorer: Restorer, original: Program) -> None:
    restored = restorer.restore("image", "--fill", "none")
    os.truncate(copy, copy.stat().st_size // 2)
    original.go()
    assert original.result(restored) == ""
    restored.wait_gone()


def test_removed_while_loading(copy: Path, restorer: Restorer, original: Program) -> None:
    restored = restorer.restore("image", "--fill", "none")
    shutil.rmtree(restorer.store)
    original.go()
    assert original.result(restored) == "ok\n"


def test_removed(copy: Path, restorer: Restorer, original: Program) -> None:
    copy.unlink()
    assert str(restorer.store) in restorer.fails("restore", "image", "-d", code=125)


def test_healthy(copy: Path, restorer: Restorer, original: Program, request: pytest.FixtureRequest) -> None:
    assert outcome(restorer, original, "none") == "ok"
    restorer.ok("verify", "image")


def test_verify_finds_every_flip(copy: Path, restorer: Restorer, program: Callable[[str], Program]) -> None:
    # Inside the frames of chunks: what lies between a pack and the end of its last page belongs to nobody.
    with open_store(restorer.store) as store:
        frames = [(pack_of(store, chunk).offset + chunk.place.offset, chunk) for chunk in lazy_chunks(store)]
    chance = random.Random(1)
    for start, chunk in chance.sample(frames, 5):
        offset = start + chance.randrange(chunk.frame_bytes)
        flip(copy, offset)
        done = restorer.run("verify", "image")
        assert done.returncode == 1 and "damage" in done.stdout + done.stderr
        flip(copy, offset)
    restorer.ok("verify", "image")


def lazy_chunks(store: Store) -> list[Chunk]:
    """Of the image, without those that must be there before resume."""
    [process] = processes(store.load("image"))
    chunks = store.records(process.map_id, process.map_check)
    return [chunk for chunk in chunks if not chunk.flags & wire.RecordFlag.EAGER]


def pack_of(store: Store, chunk: Chunk) -> Entry:
    entry = store.snapshot.find("chunks", KEY.pack(chunk.place.seq))
    assert entry is not None
    return entry


def reseal(store: Store, chunks: list[Chunk], values: dict[bytes, bytes] | None = None) -> None:
    """The image with another page index, each check along the way as if it had been written so. `values` are
    what `chunks` holds afterwards.
    """
    ref = store.ref("image")
    blob = bytearray(store.image("image", ref))
    offset = wire.read_header(bytes(blob)).processes_offset
    process = list(wire.PROCESS.unpack_from(blob, offset))
    compressor = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
    index = compressor.compress(
        b"".join(
            wire.RECORD.pack(c.addr, c.place.seq, c.check, c.frame_bytes, c.mask, c.flags, c.place.offset)
            for c in chunks
        )
    )
    wire.PROCESS.pack_into(blob, offset, *process[:6], frame_check(index), *process[7:])
    image = compressor.compress(bytes(blob))
    with store.changing() as txn:
        dbs = {db: store.env.open_db(db.encode(), txn=txn) for db in ("maps", "images", "refs", "chunks")}
        txn.put(KEY.pack(process[4]), index, db=dbs["maps"])
        txn.put(KEY.pack(ref.image_id), image, db=dbs["images"])
        txn.put(b"image", REF.pack(ref.image_id, frame_check(image), 0), db=dbs["refs"])
        if values is not None:
            txn.drop(dbs["chunks"], delete=False)
            for key, value in values.items():
                txn.put(key, value, db=dbs["chunks"])
        txn.commit()


def with_chunk(store: Store, old: Chunk, new: Chunk) -> None:
    [process] = processes(store.load("image"))
    chunks = store.records(process.map_id, process.map_check)
    reseal(store, [new if chunk == old else chunk for chunk in chunks])


@pytest.mark.parametrize("wrong", ["offset", "end", "length", "pack"])
def test_a_place_beyond_its_pack(copy: Path, restorer: Restorer, original: Program, wrong: str) -> None:
    with open_store(restorer.store) as store:
        chunk = lazy_chunks(store)[100]
        length = pack_of(store, chunk).length
        place = {
            "offset": Place(chunk.place.seq, (1 << 32) - 1),
            "end": Place(chunk.place.seq, length - chunk.frame_bytes + 1),
            "length": chunk.place,
            "pack": Place(1 << 40, 0),
        }[wrong]
        more = length - chunk.place.offset + 1 if wrong == "length" else chunk.frame_bytes
        with_chunk(store, chunk, replace(chunk, place=place, frame_bytes=more))
    said = restorer.fails("restore", "image", "-d", code=125)
    assert "is damaged" in said
    assert ("is missing" if wrong == "pack" else "reaches beyond" if wrong != "length" else "") in said
    assert restorer.run("verify", "image").returncode == 1


@pytest.mark.parametrize("bit", range(0, 17, 2))
@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_a_place_inside_its_pack(
    copy: Path, restorer: Restorer, original: Program, fill: str, bit: int
) -> None:
    """The frame of a neighbour, or a part of one: never its bytes."""
    with open_store(restorer.store) as store:
        chunk = lazy_chunks(store)[100]
        offset = chunk.place.offset ^ 1 << bit
        with_chunk(store, chunk, replace(chunk, place=Place(chunk.place.seq, offset)))
    assert outcome(restorer, original, fill) in ("error", "died")
    assert restorer.run("verify", "image").returncode == 1


@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_the_place_of_a_neighbour(copy: Path, restorer: Restorer, original: Program, fill: str) -> None:
    with open_store(restorer.store) as store:
        chunk, other = lazy_chunks(store)[100:102]
        with_chunk(store, chunk, replace(chunk, place=other.place))
    assert outcome(restorer, original, fill) in ("error", "died")


def unpack(store: Store) -> None:
    """Makes a store of format 3 of it: each chunk is a value of its own, and has no offset."""
    [process] = processes(store.load("image"))
    chunks = store.records(process.map_id, process.map_check)
    numbers = {place: Place(seq, 0) for seq, place in enumerate(sorted({c.place for c in chunks}), 1)}
    hashes, values = {}, {}
    for chunk in chunks:
        frame = Frame(numbers[chunk.place], chunk.check, chunk.frame_bytes)
        digest = chunk_hash(store.chunk(chunk))
        hashes[digest] = pack_hash(digest, frame)
        raw = store.snapshot.read(pack_of(store, chunk))
        values[KEY.pack(frame.place.seq)] = raw[chunk.place.offset :][: chunk.frame_bytes]
    reseal(store, [replace(chunk, place=numbers[chunk.place]) for chunk in chunks], values)
    with store.changing() as txn:
        dbs = {db: store.env.open_db(db, txn=txn) for db in (b"hashes", b"meta")}
        for digest, value in hashes.items():
            txn.put(digest, value, db=dbs[b"hashes"])
        txn.put(b"version", (3).to_bytes(4, "little"), db=dbs[b"meta"])
        txn.commit()


def test_a_store_without_packs(copy: Path, restorer: Restorer, original: Program) -> None:
    with open_store(restorer.store) as store:
        unpack(store)
    restorer.ok("verify")
    for fill in ("none", "background"):
        assert outcome(restorer, original, fill) == "ok"
