# SPDX-License-Identifier: Apache-2.0
"""Looking through a whole store: what nothing uses any more, and what is not what was written."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple

from restorer import wire
from restorer.errors import ImageNotFound, OtherFormat, StoreDamaged, StoreError
from restorer.model import Chunk, Place
from restorer.record import dataclass
from restorer.store_format import (
    COUNTER,
    DATABASES,
    KEY,
    Frame,
    chunk_hash,
    lmdb_errors,
    unpack_hash,
    unpack_sparse,
)
from restorer.store_hot import check_hot, drop_recordings

if TYPE_CHECKING:
    import lmdb

    from restorer.snapshot import Snapshot
    from restorer.store import Ref, Store

__all__ = ["Damage", "GcSummary", "Unread", "VerifyReport", "collect", "verify"]


@dataclass(frozen=True)
class GcSummary:
    """What `collect` deleted. `freed_bytes`: room that the next checkpoints use; data.mdb itself does not
    shrink. `unused_bytes` were not deleted: chunks that no image uses, in packs with others that are used.
    """

    images: int
    maps: int
    chunks: int
    freed_bytes: int
    unused_bytes: int


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written. Where a chunk is meant: `addr` of the 64 KiB window, `seq` of
    its pack and its `offset` in there. `name` is "" for what belongs to no image.
    """

    name: str
    cause: str
    addr: int | None = None
    seq: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Unread:
    """An image of another format: it was not looked at."""

    name: str
    cause: str
    hint: str


@dataclass
class VerifyReport:
    """What `verify` looked at, each chunk counted once, and what it found; `unread` images are not in it."""

    images: int = 0
    chunks: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)


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
    """The keys that the names lead to, and the bytes of each chunk's frame."""

    images: set[int] = field(default_factory=set)
    maps: set[int] = field(default_factory=set)
    chunks: dict[Place, int] = field(default_factory=dict)

    def packs(self) -> dict[int, int]:
        """The packs that hold them, and how many bytes of each are used."""
        packs: dict[int, int] = {}
        for place, frame_bytes in self.chunks.items():
            packs[place.seq] = packs.get(place.seq, 0) + frame_bytes
        return packs


def _used(store: Store) -> _Used:
    from restorer.store import processes

    used = _Used()
    for name, ref in store.refs().items():
        try:
            used.images.add(ref.image_id)
            for process in processes(store.image(name, ref)):
                used.maps.add(process.map_id)
                for chunk in store.records(process.map_id, process.map_check):
                    used.chunks[chunk.place] = chunk.frame_bytes
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
        packs = used.packs()
        snapshot = store.snapshot
        env = store.env
        with lmdb_errors(store.path):
            freed = [
                _drop(snapshot, txn, env.open_db(name.encode(), txn=txn, create=False), name, keep)
                for name, keep in (
                    ("images", used.images),
                    ("maps", used.maps),
                    ("chunks", packs),
                    ("hot", used.maps),
                )
            ]
            hashes = env.open_db(b"hashes", txn=txn, create=False)
            # A chunk of a pack that stays may be found again.
            lost = [digest for digest, frame in _hashes(store) if frame.place.seq not in packs]
            for digest in lost:
                txn.delete(digest, db=hashes)
            kept = {seq: length for seq, length in _seqs(snapshot, "chunks") if seq in packs}
            sparse = [seq for seq, length in kept.items() if 2 * packs[seq] < length]
            value = b"".join(COUNTER.pack(seq) for seq in sparse)
            txn.put(b"sparse", value, db=env.open_db(b"meta", txn=txn, create=False))
            txn.commit()
        drop_recordings(store.path, used.images)
        return GcSummary(
            images=freed[0][0],
            maps=freed[1][0],
            chunks=len(lost),
            freed_bytes=sum(size for _, size in freed),
            unused_bytes=sum(kept.values()) - sum(packs.values()),
        )


def _hashes(store: Store) -> Iterator[tuple[bytes, Frame]]:
    for entry in store.snapshot.entries("hashes"):
        yield entry.key, unpack_hash(store.path, entry.key, store.snapshot.read(entry))


def _drop(
    snapshot: Snapshot, txn: lmdb.Transaction, db: Any, name: str, keep: Container[int]
) -> tuple[int, int]:
    """How many entries were deleted, and the bytes of their values."""
    unused = [(key, length) for key, length in _seqs(snapshot, name) if key not in keep]
    for key, _ in unused:
        txn.delete(KEY.pack(key), db=db)
    return len(unused), sum(length for _, length in unused)


class _Look(NamedTuple):
    """What a chunk decodes to, or what is wrong with it."""

    raw_bytes: int = 0
    cause: str = ""


def verify(store: Store, name: str | None) -> VerifyReport:
    """Store.verify."""
    return _Verifier(store).run(name)


class _Verifier:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._report = VerifyReport()
        self._frames: dict[Place, tuple[bytes | None, Frame]] = {}
        self._sparse: set[int] = set()
        self._looked_at: dict[Place, _Look] = {}

    def run(self, name: str | None) -> VerifyReport:
        refs: dict[str, Ref] = {}
        with self._noting(""):
            refs = self._store.refs() if name is None else {name: self._store.ref(name)}
        with self._noting(""):
            self._sparse = unpack_sparse(self._store.path, self._store.snapshot.get("meta", b"sparse"))
        with self._noting(""):
            for entry in self._store.snapshot.entries("hashes"):
                with self._noting(""):
                    frame = unpack_hash(self._store.path, entry.key, self._store.snapshot.read(entry))
                    self._frames[frame.place] = entry.key, frame
        for image_name, ref in refs.items():
            with self._noting(image_name):
                self._image(image_name, ref)
        self._report.images = len(refs) - len(self._report.unread)
        if name is None:
            self._packs()
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

        try:
            blob = self._store.image(name, ref)
        except OtherFormat as error:
            self._report.unread.append(Unread(name, error.cause, error.hint))
            return
        read_manifest(blob)
        for process in processes(blob):
            chunks = self._store.records(process.map_id, process.map_check)
            if len(chunks) != process.records_count:
                raise self._store.damaged(f"page index {process.map_id} has {len(chunks)} records")
            for chunk in chunks:
                self._chunk(name, chunk)
            check_hot(self._store, ref.image_id, process, chunks)

    def _chunk(self, name: str, chunk: Chunk) -> None:
        if chunk.place.seq in self._sparse:
            # The hash may lead to a newer copy by now.
            frame = Frame(chunk.place, chunk.check, chunk.frame_bytes)
            self._frames.setdefault(chunk.place, (None, frame))
        look = self._look(chunk.place)
        cause = look.cause
        if not cause and self._frames[chunk.place][1] != (chunk.place, chunk.check, chunk.frame_bytes):
            cause = f"chunk {chunk.place} is not the one that was referred to"
        if not cause and look.raw_bytes != chunk.pages * wire.PAGE_BYTES:
            cause = f"chunk {chunk.place} has {look.raw_bytes} bytes for {chunk.pages} pages"
        if cause:
            self._report.damages.append(Damage(name, cause, chunk.addr, *chunk.place))

    def _look(self, place: Place) -> _Look:
        look = self._looked_at.get(place)
        if look is None:
            look = self._looked_at[place] = self._decode(place)
            self._report.chunks += 1
        return look

    def _decode(self, place: Place) -> _Look:
        if place not in self._frames:
            return _Look(cause=f"no hash leads to chunk {place}")
        digest, frame = self._frames[place]
        try:
            pages = self._store.chunk(frame)
        except StoreError as error:
            return _Look(cause=error.cause)
        if digest is not None and chunk_hash(pages) != digest:
            return _Look(cause=f"chunk {place} is not what its hash says")
        self._report.raw_bytes += len(pages)
        self._report.stored_bytes += frame.frame_bytes
        return _Look(len(pages))

    def _packs(self) -> None:
        """Every frame is one that a hash leads to, and none begins in another. Those that no image uses may
        be found by the next one.
        """
        ends: dict[int, int] = {}
        for place in sorted(self._frames):
            look = _Look() if place in self._looked_at else self._look(place)
            if look.cause:
                self._report.damages.append(Damage("", look.cause, None, *place))
            elif not self._follows(place, ends.get(place.seq, 0)):
                cause = f"chunk {place} does not begin where the one before it ends"
                self._report.damages.append(Damage("", cause, None, *place))
            ends[place.seq] = place.offset + self._frames[place][1].frame_bytes
        with self._noting(""):
            for seq, length in _seqs(self._store.snapshot, "chunks"):
                if ends.get(seq, 0) != length and seq not in self._sparse:
                    cause = f"pack {seq} has {length} bytes, its chunks have {ends.get(seq, 0)}"
                    self._report.damages.append(Damage("", cause, None, seq))

    def _follows(self, place: Place, end: int) -> bool:
        return place.offset == end or (place.offset > end and place.seq in self._sparse)

    def _trees(self) -> None:
        snapshot = self._store.snapshot
        for db in DATABASES:
            with self._noting(""):
                for _ in snapshot.entries(db):
                    pass
        with self._noting(""):
            snapshot.check_pages(DATABASES, values=True)
