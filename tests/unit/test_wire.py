# SPDX-License-Identifier: Apache-2.0
"""Sizes and offsets of wire.h as written in images. What fails here needs a new WR_VERSION."""

from __future__ import annotations

import pytest

from restorer.native import lib, offset_of, size_of

SIZES = {
    "wr_lz4": 8,
    "wr_arg": 16,
    "wr_op": 120,
    "wr_object": 8,
    "wr_program": 16,
    "wr_process": 184,
    "wr_segment": 32,
    "wr_header": 144,
    "wr_port": 8,
    "wr_terminal": 60,
    "wr_record": 32,
    "wr_failure": 24,
    "wr_counters": 152,
    "wr_ctl": 3312,
    "wr_runtime": 224,
    "wr_hot": 32,
    "wr_hot_block": 24,
    "wr_recording": 24,
    "wr_use": 8,
    "wr_fault": 56,
    "wr_message": 32,
    "wr_shared": 8,
    "wr_call": 32,
}

OFFSETS = {
    ("wr_op", "nr"): 8,
    ("wr_op", "expected"): 16,
    ("wr_op", "args"): 24,
    ("wr_header", "version"): 8,
    ("wr_header", "image_id"): 16,
    ("wr_header", "xfeatures"): 40,
    ("wr_header", "programs_offset"): 56,
    ("wr_header", "manifest_offset"): 100,
    ("wr_header", "pids_offset"): 108,
    ("wr_header", "terminal_offset"): 116,
    ("wr_header", "monotonic_ns"): 120,
    ("wr_header", "own_time"): 136,
    ("wr_header", "leaders_count"): 140,
    ("wr_terminal", "foreground"): 52,
    ("wr_process", "channel_slot"): 52,
    ("wr_process", "bases"): 56,
    ("wr_record", "where"): 8,
    ("wr_record", "check"): 16,
    ("wr_record", "mask"): 24,
    ("wr_record", "flags"): 26,
    ("wr_record", "offset"): 28,
    ("wr_ctl", "failure"): 32,
    ("wr_ctl", "counters"): 56,
    ("wr_ctl", "suspended"): 208,
    ("wr_ctl", "storm"): 212,
    ("wr_ctl", "calls"): 216,
    ("wr_segment", "image"): 16,
    ("wr_segment", "flags"): 24,
}

NUMBERS = {
    "WR_VERSION": 3,
    "WR_SLOTS": 32768,
    "WR_CHUNK_BYTES": 65536,
    "WR_CHUNK_PAGES": 16,
    "WR_NO_SLOT": 0xFFFF,
    "WR_OP_SYSCALL": 1,
    "WR_OP_EXIT": 12,
    "WR_CTL": 3,
    "WR_EXPECT_OK_OR": 3,
    "WR_SLOT_FIRST": 32,
    "WR_SLOT_CTL": 25,
    "WR_RECORD_EAGER": 1,
    "WR_SEGMENT_HUGE": 8,
    "WR_PAGER_FDS": 7,
    "WR_MESSAGE_LOST": 6,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    assert size_of(f"struct {name}") == SIZES[name]


@pytest.mark.parametrize(("name", "field"), OFFSETS)
def test_offsets(name: str, field: str) -> None:
    assert offset_of(f"struct {name}", field) == OFFSETS[name, field]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    assert getattr(lib, name) == NUMBERS[name]


def test_arguments_lie_one_after_the_other() -> None:
    assert [offset_of("struct wr_op", "args", i) for i in range(lib.WR_ARGS)] == [
        24 + 16 * i for i in range(6)
    ]
