# SPDX-License-Identifier: Apache-2.0
"""Frames: what the store keeps of chunks, page indices and images, compressed (docs/format.md).

All are zstd frames but those of chunks and working sets, which are LZ4's where that takes little more room: a
restore decodes them in a fifth of the time. A frame ends with a check, which references hold.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from struct import Struct

import lz4.block
import xxhash
import zstandard

__all__ = ["FrameError", "compress", "compress_chunks", "compress_lz4", "content_bytes", "decompress"]

_LEVEL = 3
# LZ4 may be larger than zstd by two fifths. At its lowest level that looks for the best match it loses a
# fiftieth of the room to the higher ones, which take half as much time again.
_LZ4_LEVEL = 3
_LARGER = 1.4

_LZ4_MAGIC = 0x344C5352
_LZ4_HEAD = Struct("<II")
_CHECK = Struct("<I")

_local = threading.local()


class FrameError(Exception):
    """A frame that is none, or does not decode to what it says."""


def compress(content: bytes) -> bytes:
    """A zstd frame with content size and checksum."""
    # ZSTD contexts belong to one thread each.
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, write_checksum=True, write_content_size=True
        )
    frame: bytes = compressor.compress(content)
    return frame


def compress_lz4(content: bytes, level: int = _LZ4_LEVEL) -> bytes:
    """An LZ4 frame."""
    block: bytes = lz4.block.compress(content, mode="high_compression", compression=level, store_size=False)
    frame = _LZ4_HEAD.pack(_LZ4_MAGIC, len(content)) + block
    return frame + _lz4_check(frame)


def _lz4_check(frame: bytes) -> bytes:
    # Of the frame, not of its content as zstd's: it is shorter, and who decodes the same comes to the same.
    check: int = xxhash.xxh3_64_intdigest(frame) & 0xFFFFFFFF
    return _CHECK.pack(check)


def compress_chunks(chunks: Sequence[bytes]) -> list[bytes]:
    """Frames of neighbouring chunks, all by the codec that suits the first of them."""
    if not chunks:
        return []
    small, fast = compress(chunks[0]), compress_lz4(chunks[0])
    if len(fast) <= len(small) * _LARGER:
        return [fast, *(compress_lz4(chunk) for chunk in chunks[1:])]
    return [small, *(compress(chunk) for chunk in chunks[1:])]


def content_bytes(frame: bytes) -> int:
    """What the frame claims to decode to. Raises FrameError."""
    if frame[: _CHECK.size] == _CHECK.pack(_LZ4_MAGIC):
        if len(frame) < _LZ4_HEAD.size + _CHECK.size:
            raise FrameError("it is too short")
        return int(_LZ4_HEAD.unpack_from(frame)[1])
    try:
        found: int = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise FrameError(str(error)) from None
    if found < 0:
        raise FrameError("it does not say how long its content is")
    return found


def decompress(frame: bytes) -> bytes:
    """The content of a frame that agrees with its check. Raises FrameError; ask `content_bytes` first."""
    if frame[: _CHECK.size] == _CHECK.pack(_LZ4_MAGIC):
        return _decompress_lz4(frame, content_bytes(frame))
    decompressor = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        content: bytes = decompressor.decompress(frame)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FrameError(str(error)) from None
    return content


def _decompress_lz4(frame: bytes, expected: int) -> bytes:
    if _lz4_check(frame[: -_CHECK.size]) != frame[-_CHECK.size :]:
        raise FrameError("it has another checksum")
    block = frame[_LZ4_HEAD.size : -_CHECK.size]
    try:
        content: bytes = lz4.block.decompress(block, uncompressed_size=expected)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise FrameError(str(error)) from None
    if len(content) != expected:
        raise FrameError(f"it has {len(content)} bytes instead of {expected}")
    return content
