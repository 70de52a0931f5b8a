# SPDX-License-Identifier: Apache-2.0
"""The structures and constants of wire.h that images are built from and decoded with.

Formats of `struct`, so that reading an image needs no extension module; a unit test holds each of them
against the compiled header.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

MAGIC = b"RSTRIMG\0"
VERSION = 3
ARGS = 6
BASES = 8
PAGE_BYTES = 4096
CHUNK_PAGES = 16
CHUNK_BYTES = 65536
NO_SLOT = 0xFFFF
NO_OBJECT = 0xFFFF
SLOTS = 32768
SLOT_FIRST = 32
FD_BASE_MIN = 64
SCRATCH_BYTES = 131072
# Not in wire.h: the launcher puts the region's end below this, the end of 47-bit user space less one page.
TASK_SIZE = 0x7FFF_FFFF_F000

ARG = Struct("<QHHI")
OP = Struct("<BBHHHIIq" + "QHHI" * ARGS)
OBJECT = Struct("<II")
PROGRAM = Struct("<IIII")
PROCESS = Struct(f"<iIIIQIIQ4I{2 * BASES}Q")
SEGMENT = Struct("<QQQII")
PORT = Struct("<II")
TERMINAL = Struct("<44s4HII")
HEADER = Struct("<8sIIQQQQ18IQQII")
RECORD = Struct("<QQIIHHI")
MESSAGE = Struct("<IIQQQ")


class Header(NamedTuple):
    """What HEADER unpacks to: struct wr_header."""

    magic: bytes
    version: int
    header_bytes: int
    image_id: int
    image_bytes: int
    memory_bytes: int
    xfeatures: int
    xstate_bytes: int
    fd_base: int
    programs_offset: int
    programs_count: int
    objects_offset: int
    objects_count: int
    processes_offset: int
    processes_count: int
    ports_offset: int
    ports_count: int
    shared_program: int
    undo_program: int
    slots_count: int
    manifest_offset: int
    manifest_bytes: int
    pids_offset: int
    pids_count: int
    terminal_offset: int
    monotonic_ns: int
    boottime_ns: int
    own_time: int
    leaders_count: int


def read_header(blob: bytes) -> Header:
    """The header of a blob, which is as long as one at least. Raises struct.error."""
    return Header._make(HEADER.unpack_from(blob))


class ArgKind(IntEnum):
    """enum wr_arg_kind."""

    IMM = 0
    SLOT = 1
    DATA = 2
    CTL = 3
    TREE = 4


class OpKind(IntEnum):
    """enum wr_op_kind."""

    SYSCALL = 1
    STORE = 2
    LOAD = 3
    CHECK_EQ = 4
    CHECK_GE = 5
    CHECK_MEM = 6
    ADD = 7
    WAIT = 8
    SPAWN = 9
    ENTER = 10
    PAGER = 11
    EXIT = 12
    AHEAD = 13
    FORK = 14
    SKIP_EQ = 15
    STORM = 16


class ExpectKind(IntEnum):
    """enum wr_expect."""

    OK = 0
    EXACT = 1
    ANY = 2
    OK_OR = 3


class OpFlag(IntFlag):
    """enum wr_op_flags."""

    NONE = 0
    NR_FROM_SLOT = 1
    FILE_CHECK = 2


class SegmentFlag(IntFlag):
    """enum wr_segment_flags."""

    NONE = 0
    LAZY = 1
    WRITE = 2
    MOVE = 4
    HUGE = 8
    WIPEONFORK = 16
    SHARED = 32
    WINDOW = 64
    NOHUGE = 128


class RecordFlag(IntFlag):
    """enum wr_record_flags."""

    NONE = 0
    EAGER = 1
    WRITE = 2
    SHARED = 4


class ProcessFlag(IntFlag):
    """enum wr_process_flags."""

    NONE = 0
    STOPPED = 1
    DEATH_SIGNAL = 2


class MessageKind(IntEnum):
    """enum wr_message_kind."""

    UFFD = 1
    READY = 2
    LOADED = 3
    POISONED = 4
    EAGER_BAD = 5
    LOST = 6
    CHILD = 7
    CHILD_GONE = 8
    HOT_BAD = 9
    BORN = 10
    PAGER = 11
    FAILED = 12
    LEFT = 13
    ALONE = 14
    SUSPEND = 15
    SHARED_BAD = 16
    CALLS = 17
    WIPES = 18


class PagerFd(IntEnum):
    """enum wr_pager_fd."""

    UFFD = 0
    DATA = 1
    CHANNEL = 2
    PIDFD = 3
    SHARED = 4
    WINDOW = 5
    KEEPER = 6
    FDS = 7
