# SPDX-License-Identifier: Apache-2.0
"""What all parts of the store share: its keys and values, its locks, and the words for LMDB's errors."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import lmdb

from restorer.errors import PrivilegeError, StoreDamaged, StoreError, StoreFull, UsageError
from restorer.model import Place

FORMAT_VERSION = 4
VERSION_VALUE = FORMAT_VERSION.to_bytes(4, "little")
# Format 3 is read as it is, and becomes 4 with the first image or working set that is added.
FORMATS = (3, FORMAT_VERSION)
DATABASES = ("refs", "images", "chunks", "hashes", "maps", "hot", "meta")
MAP_BYTES = 1 << 40
MAX_DBS = 16
MAX_READERS = 1024
NAME_BYTES = 200

# Bounds for what a frame may claim to decode to, so that a damaged one cannot ask for all memory.
IMAGE_BYTES_MAX = 1 << 28
RECORDS_BYTES_MAX = 1 << 31

REF = Struct("<QII")
KEY = Struct(">Q")
COUNTER = Struct("<Q")
# Value in `hashes`: sequence number of the pack, check and length of the frame, its offset in the pack unless
# that is 0, then the CRC-32 of the key and these.
_HASHED = Struct("<QII")
_NUMBER = Struct("<I")

_FULL = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def frame_check(frame: bytes) -> int:
    """The last four bytes of a frame, zstd's checksum of the content: what binds it to its reference."""
    return int.from_bytes(frame[-4:], "little")


def chunk_hash(pages: bytes) -> bytes:
    """The key in `hashes`: BLAKE2b of the packed pages, 16 bytes."""
    return hashlib.blake2b(pages, digest_size=16).digest()


class Frame(NamedTuple):
    """Where the frame of a chunk lies, its last four bytes, and its length."""

    place: Place
    check: int
    frame_bytes: int


def pack_hash(digest: bytes, frame: Frame) -> bytes:
    """The value under `digest` in `hashes`."""
    value = _HASHED.pack(frame.place.seq, frame.check, frame.frame_bytes)
    if frame.place.offset:
        value += _NUMBER.pack(frame.place.offset)
    return value + _NUMBER.pack(zlib.crc32(digest + value))


def unpack_hash(folder: Path, digest: bytes, value: bytes) -> Frame:
    """The frame that the value under `digest` leads to. Raises StoreDamaged: new images refer to the chunk
    without reading it.
    """
    tail = len(value) - _HASHED.size
    if tail in (_NUMBER.size, 2 * _NUMBER.size):
        seq, check, frame_bytes = _HASHED.unpack_from(value)
        offset = _NUMBER.unpack_from(value, _HASHED.size)[0] if tail > _NUMBER.size else 0
        frame = Frame(Place(seq, offset), check, frame_bytes)
        if pack_hash(digest, frame) == value:
            return frame
    raise StoreDamaged(
        f"store {folder} is damaged: the hash {digest.hex()} has a wrong value", "restorer verify"
    )


def unpack_sparse(folder: Path, value: bytes | memoryview | None) -> set[int]:
    """The packs that `meta.sparse` lists. Raises StoreDamaged."""
    if value is not None and len(value) % COUNTER.size:
        raise StoreDamaged(f"store {folder} is damaged: its list of sparse packs has {len(value)} bytes")
    return {seq for (seq,) in COUNTER.iter_unpack(value or b"")}


def check_name(name: str) -> bytes:
    """The key of an image name. Raises UsageError for one that no image may have."""
    try:
        key = name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"image name {name!a} is not valid UTF-8") from None
    if not 1 <= len(key) <= NAME_BYTES:
        raise UsageError(f"image name of {len(key)} bytes", f"choose one of 1 to {NAME_BYTES} bytes")
    if "/" in name or name.startswith("-") or not all(c.isprintable() for c in name):
        raise UsageError(f"image name {name!a}", 'choose one without "/", controls or a leading "-"')
    return key


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time; unlike LMDB's own mutex, waiting for it can be interrupted by a signal."""
    with os_errors(folder):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os_errors(folder):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PrivilegeError(
            f"store {folder}: {error.strerror}",
            "run as its owner, or name another by --store or RESTORER_STORE",
        ) from None
    except OSError as error:
        if error.strerror in _FULL:
            raise _full(folder) from None
        raise StoreError(f"store {folder}: {error.strerror}") from None


@contextmanager
def lmdb_errors(folder: Path) -> Iterator[None]:
    """Words LMDB's errors. A transaction that met one must not be committed."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError):
        raise _full(folder) from None
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError) as error:
        raise StoreDamaged(f"store {folder} is damaged: {error}", "restorer verify tells more") from None
    except lmdb.ReadersFullError:
        raise StoreError(
            f"store {folder} has {MAX_READERS} readers", "wait until restores have loaded"
        ) from None
    except lmdb.Error as error:
        # LMDB reports a short write, which is how most file systems fill up, as EIO.
        text = str(error).rsplit(": ", 1)[-1]
        if text in _FULL or (text == os.strerror(errno.EIO) and _nearly_full(folder)):
            raise _full(folder) from None
        if text == os.strerror(errno.EACCES):
            raise PrivilegeError(f"store {folder}: {text}", "run as its owner") from None
        raise StoreError(f"store {folder}: {error}") from None


def _full(folder: Path) -> StoreFull:
    return StoreFull(
        f"no room for the image in store {folder}", "the store is as it was: make room, or restorer gc"
    )


def _nearly_full(folder: Path) -> bool:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize < 1 << 26
