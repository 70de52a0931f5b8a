# SPDX-License-Identifier: Apache-2.0
"""Frames of both codecs: what they hold comes back, and nothing else ever does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import zstandard

from restorer import codec
from restorer.native import lib, size_of

CODECS = (codec.compress, codec.compress_lz4)


def records(count: int) -> bytes:
    """What both make smaller, LZ4 by little less."""
    source = random.Random(count)
    return b"".join(b"record:%08d" % i + source.randbytes(10) for i in range(count))


def digits(count: int) -> bytes:
    """What only zstd makes smaller: no two runs are alike, but half of the bits are."""
    return bytes(random.Random(count).choices(b"0123456789", k=count))


@pytest.mark.parametrize("compress", CODECS)
@pytest.mark.parametrize("content", [b"", b"x", bytes(65536), records(2000), digits(4096)])
def test_comes_back(compress: Callable[[bytes], bytes], content: bytes) -> None:
    frame = compress(content)
    assert codec.content_bytes(frame) == len(content)
    assert codec.decompress(frame) == content


def test_the_head_is_that_of_wire_h() -> None:
    frame = codec.compress_lz4(bytes(4096))
    assert int.from_bytes(frame[:4], "little") == lib.WR_LZ4_MAGIC
    assert frame[:4] != zstandard.compress(b"")[:4]
    assert size_of("struct wr_lz4") == 8


def test_lz4_where_it_costs_little_room() -> None:
    fast, small = records(2000), digits(65536)
    assert all(frame[:4] == codec.compress_lz4(b"")[:4] for frame in codec.compress_chunks([fast] * 3))
    assert all(frame[:4] == codec.compress(b"")[:4] for frame in codec.compress_chunks([small] * 3))
    for chunks in ([fast] * 3, [small] * 3, [fast, small], [small, fast], []):
        assert [codec.decompress(frame) for frame in codec.compress_chunks(chunks)] == chunks


@pytest.mark.parametrize("compress", CODECS)
def test_flipped_and_cut(compress: Callable[[bytes], bytes]) -> None:
    """Bits that zstd has to spare change nothing; all others are found."""
    content = records(500)
    frame = compress(content)
    source = random.Random(1)
    for _ in range(2000):
        broken = bytearray(frame)
        broken[source.randrange(len(frame))] ^= 1 << source.randrange(8)
        cut = bytes(broken[: source.randrange(len(frame))])
        for wrong in (bytes(broken), cut, frame + b"more", frame[source.randrange(1, len(frame)) :]):
            try:
                codec.content_bytes(wrong)
                assert codec.decompress(wrong) == content
            except codec.FrameError:
                continue


def test_every_bit_of_an_lz4_frame_counts() -> None:
    frame = codec.compress_lz4(records(40))
    for bit in range(len(frame) * 8):
        broken = bytearray(frame)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(codec.FrameError):
            codec.decompress(bytes(broken))
