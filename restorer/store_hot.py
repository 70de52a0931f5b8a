# SPDX-License-Identifier: Apache-2.0
"""Working sets: what restores with --record needed, packed in the order of use (docs/format.md).

A value in `hot` only saves time: every chunk in it is in the page index too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from restorer import codec, wire
from restorer.errors import StoreDamaged
from restorer.record import dataclass
from restorer.store_format import KEY, VERSION_VALUE, frame_check, lmdb_errors, os_errors

if TYPE_CHECKING:
    from restorer.model import Chunk
    from restorer.store import ProcessEntry, Store

__all__ = ["OptimizeSummary", "check_hot", "drop_recordings", "optimize"]

HOT = Struct("<8sQIIII")
BLOCK = Struct("<QIIII")
RECORDING = Struct("<8sQII")
USE = Struct("<II")
HOT_MAGIC = b"RSTRHOT\0"
RECORDING_MAGIC = b"RSTRREC\0"
BLOCK_BYTES = 262144
BLOCK_CHUNKS = 64
# More than this comes while the program runs: a working set that is wrong must not keep it waiting for long.
BEFORE_CHUNKS_MAX = 512
# A program that waits for no page for so long has done what it was restored for; a disk takes less to answer.
QUIET_US = 30000
INDEX_BYTES_MAX = 1 << 28
# Blocks are made once and read at every restore.
LEVEL = 9


@dataclass(frozen=True)
class OptimizeSummary:
    """The working set as it is now. `recordings` were folded in; `hot_bytes` is its room in the store."""

    name: str
    recordings: int
    chunks: int
    memory_bytes: int
    hot_bytes: int


class _Block(NamedTuple):
    where: int
    frame_bytes: int
    check: int
    chunks: tuple[int, ...]


class _Set(NamedTuple):
    """Indices of records by first use: until the program was quiet for the first time, and after that."""

    first: list[int] = []
    later: list[int] = []

    @property
    def all(self) -> list[int]:
        return [*self.first, *self.later]


class _Index(NamedTuple):
    blocks: list[_Block]
    eager_blocks: int
    frames: bytes


def optimize(store: Store, name: str, *, reset: bool = False) -> OptimizeSummary:
    """Store.optimize."""
    from restorer.store import processes

    with store.changing() as txn:
        ref = store.ref(name)
        packed = [
            _optimize_process(store, ref.image_id, process, reset)
            for process in processes(store.image(name, ref))
        ]
        with lmdb_errors(store.path):
            hot = store.env.open_db(b"hot", txn=txn, create=False)
            for one in packed:
                if one.value is None:
                    txn.delete(KEY.pack(one.map_id), db=hot)
                else:
                    txn.put(KEY.pack(one.map_id), one.value, db=hot)
            meta = store.env.open_db(b"meta", txn=txn, create=False)
            txn.put(b"version", VERSION_VALUE, db=meta)
            txn.commit()
        # Only now: until then they are all there is. Folded in twice they change nothing.
        _unlink(store.path, dict.fromkeys(path for one in packed for path in one.recordings))
    return OptimizeSummary(
        name,
        # Each restore has written one for every process.
        max(one.used for one in packed),
        sum(one.chunks for one in packed),
        sum(one.pages for one in packed) * wire.PAGE_BYTES,
        sum(len(one.value or b"") for one in packed),
    )


class _Packed(NamedTuple):
    """One process's part: `recordings` are those of its image, `used` counts those of this process."""

    map_id: int
    value: bytes | None
    recordings: list[Path]
    used: int
    chunks: int
    pages: int


def _optimize_process(store: Store, image_id: int, process: ProcessEntry, reset: bool) -> _Packed:
    chunks = store.records(process.map_id, process.map_check)
    known = _Set() if reset else _packed_before(store, image_id, process)
    recordings = list(_recordings(store.path, image_id, process))
    own = [recorded for _, recorded in recordings if recorded is not None]
    used = _union([known, *([] if reset else own)])
    value = _pack(store, image_id, process.map_check, chunks, used) if used.all else None
    pages = sum(chunks[index].pages for index in used.all)
    return _Packed(process.map_id, value, [path for path, _ in recordings], len(own), len(used.all), pages)


def check_hot(store: Store, image_id: int, process: ProcessEntry, chunks: list[Chunk]) -> None:
    """Raises StoreDamaged if the image has a working set that is not what its chunks are."""
    index = _read(store, image_id, process)
    for number, block in enumerate(index.blocks if index else []):
        pages = _decode_block(store, index, number)
        if pages != b"".join(store.chunk(chunks[i]) for i in block.chunks):
            raise store.damaged(f"block {number} of the working set of image {image_id} holds other pages")


def drop_recordings(folder: Path, keep: set[int]) -> None:
    """Deletes recordings of images that are not in `keep`."""
    gone = [path for path in _files(folder) if _image_of(path) not in keep]
    with os_errors(folder):
        _unlink(folder, gone)


def _files(folder: Path) -> list[Path]:
    """Recordings, oldest first; what a launcher is still writing begins with a dot."""
    recordings = folder / "recordings"
    if not recordings.is_dir():
        return []
    return sorted(path for path in recordings.iterdir() if not path.name.startswith("."))


def _image_of(path: Path) -> int:
    try:
        return int(path.name.partition("-")[0], 16)
    except ValueError:
        return 0


def _unlink(folder: Path, paths: Iterable[Path]) -> None:
    with os_errors(folder):
        for path in paths:
            path.unlink(missing_ok=True)


def _recordings(folder: Path, image_id: int, process: ProcessEntry) -> Iterator[tuple[Path, _Set | None]]:
    """Each recording of the image; None for what is none, or is of another page index."""
    for path in _files(folder):
        if _image_of(path) != image_id:
            continue
        with os_errors(folder):
            raw = path.read_bytes()
        yield path, _recorded(raw, image_id, process)


def _recorded(raw: bytes, image_id: int, process: ProcessEntry) -> _Set | None:
    if len(raw) < RECORDING.size:
        return None
    magic, recorded_id, map_check, count = RECORDING.unpack_from(raw)
    if (magic, recorded_id, map_check) != (RECORDING_MAGIC, image_id, process.map_check):
        return None
    if len(raw) != RECORDING.size + USE.size * count:
        return None
    # The program could write to the memory that this comes from.
    uses = [use for use in USE.iter_unpack(raw[RECORDING.size :]) if use[0] < process.records_count]
    return _split(uses)


def _split(uses: list[tuple[int, int]]) -> _Set:
    """Until the program is quiet for the first time it does what it was restored for."""
    before_us = 0
    for i, (_, moment_us) in enumerate(uses):
        if moment_us - before_us > QUIET_US:
            return _Set([index for index, _ in uses[:i]], [index for index, _ in uses[i:]])
        before_us = moment_us
    return _Set([index for index, _ in uses], [])


def _union(sets: list[_Set]) -> _Set:
    first = dict.fromkeys(index for each in sets for index in each.first)
    later = dict.fromkeys(index for each in sets for index in each.later if index not in first)
    return _Set(list(first), list(later))


def _packed_before(store: Store, image_id: int, process: ProcessEntry) -> _Set:
    """The chunks of the working set that there is; a damaged one is packed anew from the recordings."""
    try:
        index = _read(store, image_id, process)
    except StoreDamaged:
        return _Set()
    if index is None:
        return _Set()
    first, later = index.blocks[: index.eager_blocks], index.blocks[index.eager_blocks :]
    return _Set([i for block in first for i in block.chunks], [i for block in later for i in block.chunks])


def _pack(store: Store, image_id: int, map_check: int, chunks: list[Chunk], used: _Set) -> bytes:
    """The value in `hot`. What comes before resume: the chunks that must, and those first used."""
    eager = [i for i, chunk in enumerate(chunks) if chunk.flags & wire.RecordFlag.EAGER]
    before = dict.fromkeys([*eager, *used.first[:BEFORE_CHUNKS_MAX]])
    first = list(_blocks(chunks, list(before)))
    rest = list(_blocks(chunks, [i for i in used.all if i not in before]))
    frames, table, indices = bytearray(), bytearray(), bytearray()
    for block in [*first, *rest]:
        frame = codec.compress_lz4(b"".join(store.chunk(chunks[i]) for i in block), LEVEL)
        table += BLOCK.pack(len(frames), len(frame), frame_check(frame), len(indices) // 4, len(block))
        indices += Struct(f"<{len(block)}I").pack(*block)
        frames += frame
    head = HOT.pack(HOT_MAGIC, image_id, map_check, len(first) + len(rest), len(indices) // 4, len(first))
    return codec.compress(head + table + indices) + bytes(frames)


def _blocks(chunks: list[Chunk], order: list[int]) -> Iterator[list[int]]:
    block: list[int] = []
    pages = 0
    for i in order:
        if block and (len(block) == BLOCK_CHUNKS or pages + chunks[i].pages > BLOCK_BYTES // wire.PAGE_BYTES):
            yield block
            block, pages = [], 0
        block.append(i)
        pages += chunks[i].pages
    if block:
        yield block


def _read(store: Store, image_id: int, process: ProcessEntry) -> _Index | None:
    """The working set of an image, or None. Raises StoreDamaged."""
    value = store.snapshot.get("hot", KEY.pack(process.map_id))
    if value is None:
        return None
    what = f"the working set of image {image_id}"
    decoder = zstandard.ZstdDecompressor().decompressobj()
    try:
        if not 0 <= zstandard.frame_content_size(value) <= INDEX_BYTES_MAX:
            raise store.damaged(f"{what} claims to be too large")
        raw = decoder.decompress(value)
    except zstandard.ZstdError as error:
        raise store.damaged(f"{what} does not decode ({error})") from None
    index = _parse(raw, decoder.unused_data, image_id, process)
    if index is None:
        raise store.damaged(f"{what} has a wrong index")
    return index


def _parse(raw: bytes, frames: bytes, image_id: int, process: ProcessEntry) -> _Index | None:
    if len(raw) < HOT.size:
        return None
    magic, hot_id, map_check, blocks_count, chunks_count, eager_blocks = HOT.unpack_from(raw)
    if (magic, hot_id, map_check) != (HOT_MAGIC, image_id, process.map_check):
        return None
    if len(raw) != HOT.size + blocks_count * BLOCK.size + chunks_count * 4:
        return None
    indices = Struct(f"<{chunks_count}I").unpack_from(raw, HOT.size + blocks_count * BLOCK.size)
    blocks = []
    end = 0
    for i in range(blocks_count):
        where, frame_bytes, check, first, count = BLOCK.unpack_from(raw, HOT.size + i * BLOCK.size)
        if where != end or first + count > chunks_count:
            return None
        end += frame_bytes
        blocks.append(_Block(where, frame_bytes, check, indices[first : first + count]))
    if end != len(frames) or any(i >= process.records_count for i in indices):
        return None
    return _Index(blocks, eager_blocks, frames)


def _decode_block(store: Store, index: _Index | None, number: int) -> bytes:
    assert index is not None
    block = index.blocks[number]
    frame = index.frames[block.where : block.where + block.frame_bytes]
    return store.decode(frame, block.check, BLOCK_BYTES, f"block {number} of a working set")
