# SPDX-License-Identifier: Apache-2.0
"""Looking through a whole store: what nothing uses any more, and what is not what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from restorer import wire
from restorer.errors import ImageNotFound, StoreDamaged, StoreError
from restorer.store_format import DATABASES, KEY, chunk_hash, lmdb_errors, unpack_hash
from restorer.store_hot import check_hot, drop_recordings
from restorer.wire import CHUNK_BYTES

if TYPE_CHECKING:
    import lmdb

    from restorer.model import Chunk
    from restorer.snapshot import Snapshot
    from restorer.store import Ref, Store

__all__ = ["Damage", "GcSummary", "VerifyReport", "collect", "verify"]


@dataclass(frozen=True)
class GcSummary:
    """What `collect` deleted. `freed_bytes`: room that the next checkpoints use; data.mdb itself does not
    shrink.
    """

    images: int
    maps: int
    chunks: int
    freed_bytes: int


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written. `addr` (of the 64 KiB window) and `seq` where a chunk is meant;
    `name` is "" for what belongs to no image.
    """

    name: str
    cause: str
    addr: int | None = None
    seq: int | None = None


@dataclass
class VerifyReport:
    """What `verify` looked at, each chunk counted once, and what it found."""

    images: int = 0
    chunks: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


def _seqs(snapshot: Snapshot, db: str) -> Iterator[tuple[int, int]]:
    """Key and length of the value of all entries of a database with u64 keys."""
    for entry in snapshot.entries(db):
        if len(entry.key) != KEY.size:
            raise StoreDamaged(
                f"store {snapshot.path.parent} is damaged: a key of {db!r} has {len(entry.key)} bytes"
            )
        yield KEY.unpack(entry.key)[0], entry.length


@dataclass
class _Used:
    """The keys that the names lead to."""

    images: set[int] = field(default_factory=set)
    maps: set[int] = field(default_factory=set)
    chunks: set[int] = field(default_factory=set)


def _used(store: Store) -> _Used:
    from restorer.store import processes

    used = _Used()
    for name, ref in store.refs().items():
        try:
            used.images.add(ref.image_id)
            for process in processes(store.image(name, ref)):
                used.maps.add(process.map_id)
                used.chunks.update(chunk.seq for chunk in store.records(process.map_id, process.map_check))
        except StoreError as error:
            raise type(error)(
                f"{error.cause}, so nothing was deleted", f"restorer rm {name} gives the image up"
            ) from None
    return used


def collect(store: Store) -> GcSummary:
    """Store.collect."""
    with store.changing(deleting=True) as txn:
        # Nobody else can commit before we do, so the snapshot is what the transaction sees.
        used = _used(store)
        snapshot = store.snapshot
        env = store.env
        with lmdb_errors(store.path):
            freed = [
                _drop(snapshot, txn, env.open_db(name.encode(), txn=txn, create=False), name, keep)
                for name, keep in (
                    ("images", used.images),
                    ("maps", used.maps),
                    ("chunks", used.chunks),
                    ("hot", used.maps),
                )
            ]
            hashes = env.open_db(b"hashes", txn=txn, create=False)
            for entry in list(snapshot.entries("hashes")):
                if unpack_hash(store.path, entry.key, snapshot.read(entry))[0] not in used.chunks:
                    txn.delete(entry.key, db=hashes)
            txn.commit()
        drop_recordings(store.path, used.images)
        return GcSummary(freed[0][0], freed[1][0], freed[2][0], sum(size for _, size in freed))


def _drop(snapshot: Snapshot, txn: lmdb.Transaction, db: Any, name: str, keep: set[int]) -> tuple[int, int]:
    """How many entries were deleted, and the bytes of their values."""
    unused = [(key, length) for key, length in _seqs(snapshot, name) if key not in keep]
    for key, _ in unused:
        txn.delete(KEY.pack(key), db=db)
    return len(unused), sum(length for _, length in unused)


class _Look(NamedTuple):
    """A chunk as it lies in the store, or what is wrong with it."""

    check: int = 0
    frame_bytes: int = 0
    raw_bytes: int = 0
    cause: str = ""


def verify(store: Store, name: str | None) -> VerifyReport:
    """Store.verify."""
    return _Verifier(store).run(name)


class _Verifier:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._report = VerifyReport()
        self._digests: dict[int, bytes] = {}
        self._looked_at: dict[int, _Look] = {}

    def run(self, name: str | None) -> VerifyReport:
        refs: dict[str, Ref] = {}
        with self._noting(""):
            refs = self._store.refs() if name is None else {name: self._store.ref(name)}
        with self._noting(""):
            for entry in self._store.snapshot.entries("hashes"):
                with self._noting(""):
                    seq, _, _ = unpack_hash(self._store.path, entry.key, self._store.snapshot.read(entry))
                    self._digests[seq] = entry.key
        for image_name, ref in refs.items():
            with self._noting(image_name):
                self._image(image_name, ref)
            self._report.images += 1
        if name is None:
            self._trees()
        return self._report

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except ImageNotFound:
            raise
        except StoreError as error:
            self._report.damages.append(Damage(name, error.cause))

    def _image(self, name: str, ref: Ref) -> None:
        from restorer.store import processes, read_manifest

        blob = self._store.image(name, ref)
        read_manifest(blob)
        for process in processes(blob):
            chunks = self._store.records(process.map_id, process.map_check)
            if len(chunks) != process.records_count:
                raise self._store.damaged(f"page index {process.map_id} has {len(chunks)} records")
            for chunk in chunks:
                self._chunk(name, chunk)
            check_hot(self._store, ref.image_id, process, chunks)

    def _chunk(self, name: str, chunk: Chunk) -> None:
        look = self._looked_at.get(chunk.seq)
        if look is None:
            look = self._looked_at[chunk.seq] = self._look(chunk)
            self._report.chunks += 1
            self._report.raw_bytes += look.raw_bytes
            self._report.stored_bytes += look.frame_bytes
        cause = look.cause
        if not cause and (look.check, look.frame_bytes) != (chunk.check, chunk.frame_bytes):
            cause = f"chunk {chunk.seq} is not the one that was referred to"
        if not cause and look.raw_bytes != chunk.pages * wire.PAGE_BYTES:
            cause = f"chunk {chunk.seq} has {look.raw_bytes} bytes for {chunk.pages} pages"
        if cause:
            self._report.damages.append(Damage(name, cause, chunk.addr, chunk.seq))

    def _look(self, chunk: Chunk) -> _Look:
        try:
            frame = self._store.snapshot.get("chunks", KEY.pack(chunk.seq))
            if frame is None:
                return _Look(cause=f"chunk {chunk.seq} is missing")
            pages = self._store.decode(frame, chunk.check, CHUNK_BYTES, f"chunk {chunk.seq}")
        except StoreError as error:
            return _Look(cause=error.cause)
        if self._digests.get(chunk.seq) != chunk_hash(pages):
            return _Look(cause=f"chunk {chunk.seq} is not what its hash says")
        return _Look(chunk.check, len(frame), len(pages))

    def _trees(self) -> None:
        snapshot = self._store.snapshot
        for db in DATABASES:
            with self._noting(""):
                for _ in snapshot.entries(db):
                    pass
        with self._noting(""):
            snapshot.check_pages(DATABASES, values=True)
