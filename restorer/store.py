# SPDX-License-Identifier: Apache-2.0
"""The store: images of processes in one LMDB environment of zstd frames. docs/format.md describes the bytes.

    with open_store(path, create=True) as store:
        with store.writer("demo") as writer:
            writer.add(addr, mask, flags, pages)
            summary = writer.finish_map()
            writer.commit(blob)
        blob = store.load("demo")

Reading never goes through LMDB's own tree walk, which dies on a damaged page, but through restorer.snapshot.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from restorer import codec, wire
from restorer.errors import ImageNotFound, OtherFormat, PrivilegeError, StoreDamaged, StoreError
from restorer.model import Chunk, ImageInfo, Place
from restorer.snapshot import Snapshot, check_file, pin
from restorer.store_check import Damage, GcSummary, VerifyReport, collect, verify
from restorer.store_format import (
    COUNTER,
    DATABASES,
    FORMATS,
    IMAGE_BYTES_MAX,
    KEY,
    MAP_BYTES,
    MAX_DBS,
    MAX_READERS,
    RECORDS_BYTES_MAX,
    REF,
    VERSION_VALUE,
    Frame,
    check_name,
    frame_check,
    lmdb_errors,
    locked,
    os_errors,
    sync_folder,
)
from restorer.store_hot import OptimizeSummary, optimize
from restorer.store_writer import ImageWriter, MapSummary
from restorer.wire import CHUNK_BYTES, RECORD

__all__ = [
    "Damage",
    "GcSummary",
    "ImageWriter",
    "MapSummary",
    "OptimizeSummary",
    "ProcessEntry",
    "Ref",
    "Store",
    "VerifyReport",
    "default_path",
    "firewall_of",
    "open_store",
    "processes",
    "read_manifest",
]


class Ref(NamedTuple):
    """What a name leads to: the key of the image, and the last four bytes of its frame."""

    image_id: int
    check: int


def default_path() -> Path:
    """$RESTORER_STORE, else /var/lib/restorer for root and the XDG data folder for others."""
    named = os.environ.get("RESTORER_STORE")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/restorer")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "restorer"


@contextmanager
def open_store(path: Path | str, *, create: bool = False) -> Iterator[Store]:
    """The store in folder `path`. With `create`, an absent one is made: folder 0700, files 0600.

    Raises StoreError (absent, not a store, a newer format), StoreDamaged, StoreFull, PrivilegeError.
    """
    folder = Path(path)
    data = folder / "data.mdb"
    with os_errors(folder):
        if create and not data.exists():
            _create(folder)
        if not data.is_file():
            raise StoreError(
                f"no store at {folder}", "checkpoint creates it; --store or RESTORER_STORE names another"
            )
        check_file(data)
        env = _open_env(folder)
    try:
        store = Store(folder, env)
        try:
            store.check_version()
            yield store
        finally:
            store.release()
    finally:
        env.close()


def _open_env(folder: Path) -> lmdb.Environment:
    writable = os.access(folder / "data.mdb", os.W_OK)
    with lmdb_errors(folder):
        env = lmdb.open(
            str(folder),
            map_size=MAP_BYTES,
            max_dbs=MAX_DBS,
            max_readers=MAX_READERS,
            readonly=not writable,
            create=False,
            mode=0o600,
        )
        if writable:
            env.reader_check()
        return env


def _create(folder: Path) -> None:
    """Makes an empty environment aside and moves it into place, so that a data.mdb is whole or is not
    there.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        for leftover in folder.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if (folder / "data.mdb").exists():
            return
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name:
            aside = Path(name)
            with lmdb_errors(folder):
                _fill_empty(aside)
            _allocate(aside / "lock.mdb")
            for file in ("lock.mdb", "data.mdb"):
                (aside / file).rename(folder / file)
        sync_folder(folder)


def _fill_empty(folder: Path) -> None:
    with lmdb.open(
        str(folder), map_size=MAP_BYTES, max_dbs=MAX_DBS, max_readers=MAX_READERS, mode=0o600
    ) as env:
        dbs = {name: env.open_db(name.encode()) for name in DATABASES}
        with env.begin(write=True) as txn:
            txn.put(b"version", VERSION_VALUE, db=dbs["meta"])
            for counter in (b"next_id", b"next_seq"):
                txn.put(counter, COUNTER.pack(1), db=dbs["meta"])


def _allocate(path: Path) -> None:
    # LMDB leaves holes in its lock file and writes to it by mmap: on a full disk that would be a SIGBUS.
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


class Store:
    """An open store. What it reads belongs to one snapshot, renewed after each of its own changes."""

    def __init__(self, folder: Path, env: lmdb.Environment) -> None:
        self.path = folder
        self._env = env
        self._stack = ExitStack()
        self._snapshot: Snapshot | None = None

    @property
    def env(self) -> lmdb.Environment:
        """For the modules that write and collect."""
        return self._env

    @property
    def snapshot(self) -> Snapshot:
        """The pinned state that everything is read from."""
        if self._snapshot is None:
            with lmdb_errors(self.path):
                self._snapshot = self._stack.enter_context(pin(self._env, self.path / "data.mdb"))
        return self._snapshot

    def release(self) -> None:
        """Lets the snapshot go; the next read pins the newest one."""
        self._snapshot = None
        self._stack.close()

    def check_version(self) -> None:
        """Raises StoreError for a format that is not ours."""
        version = self.snapshot.get("meta", b"version")
        number = int.from_bytes(version or b"", "little")
        if number not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise StoreError(
                f"store {self.path} has format {number}, this restorer knows {known}",
                "use the restorer that wrote it, or another --store",
            )

    @contextmanager
    def writer(self, name: str, replace: bool = False) -> Iterator[ImageWriter]:
        """A transaction that adds image `name`; nothing of it is kept unless `commit` was called.

        Waits for another writer of this store. Raises ImageExists, StoreFull, PrivilegeError, UsageError.
        """
        key = check_name(name)
        with self.changing() as txn:
            writer = ImageWriter(self.path, self._env, txn, key, replace)
            with writer:
                yield writer

    @contextmanager
    def changing(self, *, deleting: bool = False) -> Iterator[lmdb.Transaction]:
        """A write transaction, aborted unless it was committed inside; `deleting` values takes a closer look
        before.

        LMDB would follow a damaged page out of its map, or hand out pages that hold another image.
        """
        if self._env.flags()["readonly"]:
            raise PrivilegeError(f"store {self.path} is not writable for this user", "run as its owner")
        self.release()
        with locked(self.path):
            self.snapshot.check_pages(DATABASES, values=deleting)
            self.release()
            with lmdb_errors(self.path):
                txn = self._env.begin(write=True)
            try:
                yield txn
            finally:
                txn.abort()
                self.release()

    def refs(self) -> dict[str, Ref]:
        """All names, sorted, and the images they lead to."""
        refs = {}
        for entry in self.snapshot.entries("refs"):
            name = entry.key.decode(errors="backslashreplace")
            refs[name] = self._ref(name, self.snapshot.read(entry))
        return refs

    def ref(self, name: str) -> Ref:
        """Raises ImageNotFound, StoreDamaged, UsageError."""
        value = self.snapshot.get("refs", check_name(name))
        if value is None:
            raise self._not_found(name)
        return self._ref(name, value)

    def _not_found(self, name: str) -> ImageNotFound:
        return ImageNotFound(f"no image {name!r} in store {self.path}", "restorer list names those there are")

    def _ref(self, name: str, value: bytes) -> Ref:
        if len(value) != REF.size:
            raise self.damaged(f"the reference {name!r} has {len(value)} bytes")
        image_id, check, _ = REF.unpack(value)
        return Ref(image_id, check)

    def load(self, name: str) -> bytes:
        """The decoded blob of image `name`, which starts with struct wr_header.

        Raises ImageNotFound, and StoreDamaged when it is not what was written.
        """
        return self.image(name, self.ref(name))

    def image(self, name: str, ref: Ref) -> bytes:
        """The blob that `ref` leads to, checked as `load` does; `name` is for the message."""
        what = f"image {name!r}"
        blob = self._frame("images", ref.image_id, ref.check, IMAGE_BYTES_MAX, what)
        if len(blob) < wire.HEADER.size:
            raise self.damaged(f"{what} has {len(blob)} bytes")
        header = wire.read_header(blob)
        if (header.magic, header.image_id, header.image_bytes) != (wire.MAGIC, ref.image_id, len(blob)):
            raise self.damaged(f"{what} has a wrong header")
        if (header.version, header.header_bytes) != (wire.VERSION, wire.HEADER.size):
            raise OtherFormat(
                f"{what} has format {header.version}, this restorer knows {wire.VERSION}",
                "use the restorer that wrote it",
            )
        return blob

    def records(self, map_id: int, check: int) -> list[Chunk]:
        """The page index of one address space, sorted by address. Raises StoreDamaged."""
        what = f"page index {map_id}"
        raw = self._frame("maps", map_id, check, RECORDS_BYTES_MAX, what)
        if len(raw) % RECORD.size:
            raise self.damaged(f"{what} has {len(raw)} bytes")
        chunks = [
            Chunk(addr, Place(seq, offset), check, frame_bytes, mask, flags)
            for addr, seq, check, frame_bytes, mask, flags, offset in RECORD.iter_unpack(raw)
        ]
        last = -1
        for chunk in chunks:
            if chunk.addr <= last or chunk.addr % CHUNK_BYTES or not chunk.mask:
                raise self.damaged(f"{what} has a wrong record for {chunk.addr:#x}")
            last = chunk.addr
        return chunks

    def chunk(self, frame: Chunk | Frame) -> bytes:
        """The packed pages of one chunk. Raises StoreDamaged."""
        place = frame.place
        entry = self.snapshot.find("chunks", KEY.pack(place.seq))
        if entry is None:
            raise self.damaged(f"chunk {place} is missing")
        if place.offset + frame.frame_bytes > entry.length:
            raise self.damaged(f"chunk {place} reaches beyond the {entry.length} bytes of its pack")
        part = entry._replace(offset=entry.offset + place.offset, length=frame.frame_bytes)
        return self.decode(self.snapshot.read(part), frame.check, CHUNK_BYTES, f"chunk {place}")

    def images(self) -> tuple[list[ImageInfo], dict[str, StoreError]]:
        """All images, sorted by name, and why others cannot be read: damaged, or of another format."""
        found: list[ImageInfo] = []
        unreadable: dict[str, StoreError] = {}
        for name, ref in self.refs().items():
            try:
                found.append(self.info(name, ref))
            except StoreError as error:
                unreadable[name] = error
        return found, unreadable

    def info(self, name: str, ref: Ref | None = None) -> ImageInfo:
        """What `list` and `show` tell of one image. Raises ImageNotFound, StoreDamaged."""
        ref = ref or self.ref(name)
        blob = self.image(name, ref)
        chunks = [
            chunk for process in processes(blob) for chunk in self.records(process.map_id, process.map_check)
        ]
        manifest = read_manifest(blob)
        return ImageInfo(
            name=name,
            id=ref.image_id,
            created=manifest.get("created", 0.0),
            pid=manifest.get("pid", 0),
            command=manifest.get("command", ""),
            memory_bytes=sum(chunk.pages for chunk in chunks) * wire.PAGE_BYTES,
            stored_bytes=sum(chunk.frame_bytes for chunk in chunks),
            manifest=manifest,
        )

    def remove(self, name: str) -> None:
        """Forgets the name; `collect` brings back its room. Raises ImageNotFound, UsageError."""
        key = check_name(name)
        with self.changing() as txn, lmdb_errors(self.path):
            if not txn.delete(key, db=self._env.open_db(b"refs", txn=txn, create=False)):
                raise self._not_found(name)
            txn.commit()

    def collect(self) -> GcSummary:
        """Deletes what no name leads to any more, in one transaction. Raises StoreDamaged and leaves
        everything when an image cannot be read, since what it uses is then unknown.
        """
        return collect(self)

    def optimize(self, name: str, *, reset: bool = False) -> OptimizeSummary:
        """Packs what restores of image `name` with --record needed, with what is packed already; `reset`
        forgets both. Raises ImageNotFound, StoreDamaged, StoreFull.
        """
        return optimize(self, name, reset=reset)

    def verify(self, name: str | None = None) -> VerifyReport:
        """Decodes and checks every chunk of image `name`, or of all, and what leads to them. Raises
        ImageNotFound; damage is in the report.
        """
        return verify(self, name)

    def damaged(self, what: str) -> StoreDamaged:
        """The error for something in this store that is not what was written."""
        return StoreDamaged(f"store {self.path} is damaged: {what}", "restorer verify tells the extent")

    def _frame(self, db: str, key: int, check: int, bytes_max: int, what: str) -> bytes:
        frame = self.snapshot.get(db, KEY.pack(key))
        if frame is None:
            raise self.damaged(f"{what} is missing")
        return self.decode(frame, check, bytes_max, what)

    def decode(self, frame: bytes, check: int, bytes_max: int, what: str) -> bytes:
        """The content of a frame whose last four bytes are `check`. Raises StoreDamaged."""
        if frame_check(frame) != check:
            raise self.damaged(f"{what} is not the one that was referred to")
        try:
            content_bytes = codec.content_bytes(frame)
            if content_bytes > bytes_max:
                raise self.damaged(f"{what} claims to have {content_bytes} bytes")
            return codec.decompress(frame)
        except codec.FrameError as error:
            raise self.damaged(f"{what} does not decode ({error})") from None


class ProcessEntry(NamedTuple):
    """Where an image keeps the memory of one process (part of struct wr_process)."""

    map_id: int
    records_count: int
    map_check: int


def processes(blob: bytes) -> list[ProcessEntry]:
    """The processes of a blob that `Store.load` returned. Raises StoreDamaged."""
    header = wire.read_header(blob)
    offset, count = header.processes_offset, header.processes_count
    if offset + count * wire.PROCESS.size > len(blob):
        raise StoreDamaged(
            "the image's table of processes reaches beyond it", "restorer verify tells the extent"
        )
    entries = [wire.PROCESS.unpack_from(blob, offset + i * wire.PROCESS.size) for i in range(count)]
    return [ProcessEntry(entry[4], entry[5], entry[6]) for entry in entries]


def firewall_of(store: Store, name: str) -> str:
    """The nftables table that blocks the TCP connections of image `name`; "" for none, or no such image, or
    one that cannot be read any more.
    """
    try:
        return str(read_manifest(store.load(name)).get("firewall", ""))
    except (ImageNotFound, StoreError):
        return ""


def read_manifest(blob: bytes) -> dict[str, Any]:
    """The image's own description, from a blob that `Store.load` returned. Raises StoreDamaged."""
    header = wire.read_header(blob)
    try:
        manifest = json.loads(blob[header.manifest_offset :][: header.manifest_bytes])
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise StoreDamaged("the image's manifest cannot be read", "restorer verify tells the extent")
    return manifest
