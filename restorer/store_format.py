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

import lmdb

from restorer.errors import PrivilegeError, StoreDamaged, StoreError, StoreFull, UsageError

FORMAT_VERSION = 3
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
# Value in `hashes`: sequence number, check and length of the frame, CRC-32 of the key and these three.
HASH_VALUE = Struct("<QIII")
_HASHED = Struct("<QII")

_FULL = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def frame_check(frame: bytes) -> int:
    """The last four bytes of a frame, zstd's checksum of the content: what binds it to its reference."""
    return int.from_bytes(frame[-4:], "little")


def chunk_hash(pages: bytes) -> bytes:
    """The key in `hashes`: BLAKE2b of the packed pages, 16 bytes."""
    return hashlib.blake2b(pages, digest_size=16).digest()


def pack_hash(digest: bytes, seq: int, check: int, frame_bytes: int) -> bytes:
    """The value under `digest` in `hashes`."""
    return HASH_VALUE.pack(
        seq, check, frame_bytes, zlib.crc32(digest + _HASHED.pack(seq, check, frame_bytes))
    )


def unpack_hash(folder: Path, digest: bytes, value: bytes) -> tuple[int, int, int]:
    """Sequence number, check and length of the frame, from the value under `digest`. Raises StoreDamaged: new
    images refer to the chunk without reading it.
    """
    if len(value) == HASH_VALUE.size:
        seq, check, frame_bytes, _ = HASH_VALUE.unpack(value)
        if pack_hash(digest, seq, check, frame_bytes) == value:
            return seq, check, frame_bytes
    raise StoreDamaged(
        f"store {folder} is damaged: the hash {digest.hex()} has a wrong value", "restorer verify"
    )


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
