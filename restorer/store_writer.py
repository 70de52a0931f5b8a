# SPDX-License-Identifier: Apache-2.0
"""Adding an image: chunks are hashed and compressed by two threads, looked up and put by the caller's.

Groups of chunks go through two stages, each in order: *hashing*, after which a chunk is either one that is
stored already or a fresh one, and *compressing*, after which its frame is appended to the pack in the making.
That is put when it is full, at the latest at the end: fresh chunks of many groups, and of neighbouring
address spaces, share one. Sequence numbers of packs reach LMDB in ascending order, which lets it append.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import lmdb

from restorer import codec, wire
from restorer.errors import ImageExists, StoreDamaged
from restorer.model import Place
from restorer.record import dataclass
from restorer.store_format import (
    COUNTER,
    DATABASES,
    KEY,
    REF,
    VERSION_VALUE,
    Frame,
    chunk_hash,
    frame_check,
    lmdb_errors,
    pack_hash,
    unpack_hash,
    unpack_sparse,
)
from restorer.wire import CHUNK_BYTES, RECORD

__all__ = ["ImageWriter", "MapSummary"]

WORKERS = 2
GROUP_CHUNKS = 16
GROUPS_AHEAD = 6
# A pack is put once it has so many frames, or so many bytes of them.
PACK_FRAMES = 16
PACK_BYTES = 1 << 18


@dataclass(frozen=True)
class MapSummary:
    """What became of one address space. `raw_bytes` is what its pages decode to, `stored_bytes` the frames it
    refers to, each counted once, `new_bytes` those of them that were not in the store before.
    """

    map_id: int
    records_count: int
    map_check: int
    pages: int
    raw_bytes: int
    stored_bytes: int
    new_bytes: int
    new_chunks: int
    reused_chunks: int


class _Item(NamedTuple):
    addr: int
    mask: int
    flags: int
    pages: bytes


class _Fresh(NamedTuple):
    """A chunk that the store has not got yet."""

    digest: bytes
    pages: bytes


@dataclass
class _Pack:
    """The pack in the making. Its chunks have their places before it is put."""

    seq: int
    content: bytearray = field(default_factory=bytearray)
    frames: list[tuple[bytes, Frame]] = field(default_factory=list)

    def append(self, digest: bytes, frame: bytes) -> Frame:
        placed = Frame(Place(self.seq, len(self.content)), frame_check(frame), len(frame))
        self.content += frame
        self.frames.append((digest, placed))
        return placed

    @property
    def full(self) -> bool:
        return len(self.frames) >= PACK_FRAMES or len(self.content) >= PACK_BYTES


def _hash_all(items: list[_Item]) -> list[bytes]:
    return [chunk_hash(item.pages) for item in items]


def _compress_all(fresh: list[_Fresh]) -> list[bytes]:
    return codec.compress_chunks([chunk.pages for chunk in fresh])


class ImageWriter:
    """An image in the making; made by `Store.writer`. Used by one thread.

    For each address space: `add` its chunks by ascending address, then `finish_map`. At the end `commit`.
    """

    def __init__(
        self, folder: Path, env: lmdb.Environment, txn: lmdb.Transaction, key: bytes, replace: bool
    ) -> None:
        self._folder = folder
        self._txn = txn
        self._key = key
        self._dbs = {name: env.open_db(name.encode(), txn=txn, create=False) for name in DATABASES}
        if not replace and txn.get(key, db=self._dbs["refs"]) is not None:
            raise ImageExists(
                f"image {key.decode()!r} exists in store {folder}",
                "choose another name, --replace, or restorer rm",
            )
        self.image_id = self._counter(b"next_id")
        self.map_id = self.image_id + 1
        self._pack = _Pack(self._counter(b"next_seq"))
        self._sparse = unpack_sparse(folder, txn.get(b"sparse", db=self._dbs["meta"]))
        self._pool = ThreadPoolExecutor(WORKERS, "restorer-compress")
        self._group: list[_Item] = []
        self._hashing: deque[tuple[list[_Item], Future[list[bytes]]]] = deque()
        self._compressing: deque[tuple[list[_Fresh], Future[list[bytes]]]] = deque()
        self._frames: dict[bytes, Frame] = {}
        self._begin_map()

    def _begin_map(self) -> None:
        self._records: list[tuple[int, bytes, int, int]] = []
        self._last_addr = -1
        self._fresh: set[bytes] = set()
        self._reused = 0

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, addr: int, mask: int, flags: int, pages: bytes | bytearray | memoryview) -> None:
        """Queues the chunk of window `addr`: `pages` are the pages of `mask`, packed; they are copied, so
        that the buffer may be used again. May wait for the threads. Raises StoreFull, StoreDamaged.
        """
        if addr <= self._last_addr or addr % CHUNK_BYTES or len(pages) != mask.bit_count() * wire.PAGE_BYTES:
            raise ValueError(f"chunk {addr:#x} with mask {mask:#x} and {len(pages)} bytes")
        self._last_addr = addr
        self._group.append(_Item(addr, mask, flags, bytes(pages)))
        if len(self._group) == GROUP_CHUNKS:
            self._hash_group()
            self._advance(GROUPS_AHEAD)

    def finish_map(self) -> MapSummary:
        """Ends the address space: waits for its chunks and puts its page index under `map_id`."""
        if self._group:
            self._hash_group()
        self._advance(0)
        packed = bytearray()
        for addr, digest, mask, flags in self._records:
            (seq, offset), check, frame_bytes = self._frames[digest]
            packed += RECORD.pack(addr, seq, check, frame_bytes, mask, flags, offset)
        frame = codec.compress(bytes(packed))
        with lmdb_errors(self._folder):
            self._put_new("maps", self.map_id, frame)
        summary = self._summary(frame_check(frame))
        self.map_id += 1
        self._begin_map()
        return summary

    def _summary(self, map_check: int) -> MapSummary:
        pages = sum(mask.bit_count() for _, _, mask, _ in self._records)
        used = {digest for _, digest, _, _ in self._records}
        return MapSummary(
            map_id=self.map_id,
            records_count=len(self._records),
            map_check=map_check,
            pages=pages,
            raw_bytes=pages * wire.PAGE_BYTES,
            stored_bytes=sum(self._frames[digest].frame_bytes for digest in used),
            new_bytes=sum(self._frames[digest].frame_bytes for digest in self._fresh),
            new_chunks=len(self._fresh),
            reused_chunks=self._reused,
        )

    def commit(self, blob: bytes) -> None:
        """Stores the sealed image under its name and makes everything durable. Raises StoreFull."""
        if wire.read_header(blob).image_id != self.image_id or self._records:
            raise ValueError("the image has another id, or a page index is not finished")
        frame = codec.compress(blob)
        with lmdb_errors(self._folder):
            if self._pack.frames:
                self._put_pack()
            self._put_new("images", self.image_id, frame)
            self._txn.put(self._key, REF.pack(self.image_id, frame_check(frame), 0), db=self._dbs["refs"])
            self._txn.put(b"next_id", COUNTER.pack(self.map_id), db=self._dbs["meta"])
            self._txn.put(b"next_seq", COUNTER.pack(self._pack.seq), db=self._dbs["meta"])
            self._txn.put(b"version", VERSION_VALUE, db=self._dbs["meta"])
            self._txn.commit()

    def _counter(self, name: bytes) -> int:
        raw = self._txn.get(name, db=self._dbs["meta"])
        if raw is None or len(raw) != COUNTER.size:
            raise StoreDamaged(f"store {self._folder} is damaged: its counter {name.decode()!r} is missing")
        value: int = COUNTER.unpack(raw)[0]
        return value

    def _hash_group(self) -> None:
        group, self._group = self._group, []
        self._hashing.append((group, self._pool.submit(_hash_all, group)))

    def _advance(self, ahead: int) -> None:
        """Takes what the threads have done, and waits until at most `ahead` groups are left in each stage."""
        while self._hashing and (len(self._hashing) > ahead or self._hashing[0][1].done()):
            self._place(*self._hashing.popleft())
        while self._compressing and (len(self._compressing) > ahead or self._compressing[0][1].done()):
            self._append(*self._compressing.popleft())

    def _place(self, items: list[_Item], hashes: Future[list[bytes]]) -> None:
        fresh = []
        for item, digest in zip(items, hashes.result(), strict=True):
            if self._known(digest):
                self._reused += 1
            else:
                self._fresh.add(digest)
                fresh.append(_Fresh(digest, item.pages))
            self._records.append((item.addr, digest, item.mask, item.flags))
        if fresh:
            self._compressing.append((fresh, self._pool.submit(_compress_all, fresh)))

    def _known(self, digest: bytes) -> bool:
        if digest in self._fresh or digest in self._frames:
            return True
        with lmdb_errors(self._folder):
            value = self._txn.get(digest, db=self._dbs["hashes"])
        if value is None:
            return False
        frame = unpack_hash(self._folder, digest, bytes(value))
        if frame.place.seq in self._sparse:
            return False
        self._frames[digest] = frame
        return True

    def _append(self, fresh: list[_Fresh], frames: Future[list[bytes]]) -> None:
        with lmdb_errors(self._folder):
            for chunk, frame in zip(fresh, frames.result(), strict=True):
                self._frames[chunk.digest] = self._pack.append(chunk.digest, frame)
                if self._pack.full:
                    self._put_pack()

    def _put_pack(self) -> None:
        pack, self._pack = self._pack, _Pack(self._pack.seq + 1)
        self._put_new("chunks", pack.seq, bytes(pack.content), append=True)
        for digest, frame in pack.frames:
            self._txn.put(digest, pack_hash(digest, frame), db=self._dbs["hashes"])

    def _put_new(self, db: str, key: int, value: bytes, *, append: bool = False) -> None:
        # A damaged counter must not make us write over another image.
        if not self._txn.put(KEY.pack(key), value, db=self._dbs[db], overwrite=False, append=append):
            raise StoreDamaged(
                f"store {self._folder} is damaged: its next number of {db!r}, {key}, is taken",
                "restorer verify",
            )
