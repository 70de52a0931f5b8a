# SPDX-License-Identifier: Apache-2.0
"""Images as Python builds them, read back through the compiled wire.h."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from restorer import wire
from restorer.errors import Refused
from restorer.native import ffi, lib, size_of
from restorer.program import (
    ANY,
    CTL,
    SLOT,
    STACK_BYTES,
    Header,
    Image,
    ProcessEntry,
    Segment,
    exactly,
    ok_or,
)
from restorer.syscalls import NAMES, NR

SEGMENTS = (Segment(0x10000, 0x20000, 1, 3), Segment(0x20000, 0x21000, 2, 1))
BASES = ((0x10000000, 0x200000), (0x7F0000000000, 0x100000))
HEADER = Header(
    image_id=7,
    xfeatures=0x2E7,
    xstate_bytes=2696,
    processes=(ProcessEntry(123, 8, 5, 0xABCD, 0x7FFF0000, 1, SEGMENTS, BASES),),
    pids=(123, 124),
    manifest=b'{"pid": 123}',
)


class Blob:
    """A sealed image, its structures as C sees them."""

    def __init__(self, image: Image, header: Header = HEADER) -> None:
        self.bytes = image.seal(header)
        self.buffer = ffi.from_buffer(self.bytes)
        self.header = self.at("struct wr_header", 0)

    def at(self, kind: str, offset: int, index: int = 0) -> Any:
        size = size_of(kind)
        assert offset + (index + 1) * size <= len(self.bytes)
        return ffi.cast(f"{kind} *", self.buffer + offset)[index]

    def op(self, program: int, index: int) -> Any:
        where = self.at("struct wr_program", self.header.programs_offset, program)
        assert index < where.ops_count
        return self.at("struct wr_op", where.ops_offset, index)

    def text(self, offset: int) -> str:
        return self.bytes[offset : self.bytes.index(b"\0", offset)].decode()


@pytest.mark.parametrize(
    "name", ["op", "object", "program", "process", "segment", "port", "header", "message"]
)
def test_formats_have_the_sizes_of_wire_h(name: str) -> None:
    assert getattr(wire, name.upper()).size == size_of(f"struct wr_{name}")


@pytest.mark.parametrize(
    ("prefix", "name", "kind"),
    [
        ("WR_", "wr_arg_kind", wire.ArgKind),
        ("WR_", "wr_op_flags", wire.OpFlag),
        ("WR_OP_", "wr_op_kind", wire.OpKind),
        ("WR_EXPECT_", "wr_expect", wire.ExpectKind),
        ("WR_SEGMENT_", "wr_segment_flags", wire.SegmentFlag),
        ("WR_PROCESS_", "wr_process_flags", wire.ProcessFlag),
        ("WR_RECORD_", "wr_record_flags", wire.RecordFlag),
        ("WR_MESSAGE_", "wr_message_kind", wire.MessageKind),
        ("WR_PAGER_", "wr_pager_fd", wire.PagerFd),
    ],
)
def test_enums_are_those_of_wire_h(prefix: str, name: str, kind: Any) -> None:
    """All of each: a flag that Python does not know is one that no image will ever carry."""
    values = ffi.typeof(f"enum {name}").relements
    expected = {key.removeprefix(prefix): value for key, value in values.items()}
    assert {member.name: member.value for member in kind if member.name != "NONE"} == expected


def test_constants_are_those_of_wire_h() -> None:
    for name in (
        "VERSION",
        "ARGS",
        "BASES",
        "PAGE_BYTES",
        "CHUNK_PAGES",
        "CHUNK_BYTES",
        "NO_SLOT",
        "NO_OBJECT",
    ):
        assert getattr(wire, name) == getattr(lib, f"WR_{name}")
    for name in ("SLOTS", "SLOT_FIRST", "FD_BASE_MIN", "SCRATCH_BYTES"):
        assert getattr(wire, name) == getattr(lib, f"WR_{name}")
    assert wire.OpFlag.NR_FROM_SLOT == lib.WR_NR_FROM_SLOT
    assert wire.OpFlag.FILE_CHECK == lib.WR_FILE_CHECK


def test_named_slots_and_ctl_words_are_those_of_wire_h() -> None:
    for name, slot in vars(SLOT).items():
        if not name.startswith("_"):
            assert slot.index == getattr(lib, f"WR_SLOT_{name.upper()}")
    for name, word in vars(CTL).items():
        if not name.startswith("_"):
            assert word.offset == ffi.offsetof("struct wr_ctl", name)


def test_header_and_process() -> None:
    image = Image(threads=3, fd_base=100)
    blob = Blob(image)
    header = blob.header
    assert bytes(ffi.buffer(header.magic)) == wire.MAGIC
    assert (header.version, header.header_bytes, header.image_id) == (wire.VERSION, wire.HEADER.size, 7)
    assert header.image_bytes == len(blob.bytes)
    assert header.memory_bytes % 4096 == 0
    assert header.memory_bytes >= len(blob.bytes) + 3 * STACK_BYTES
    assert (header.xfeatures, header.xstate_bytes, header.fd_base) == (0x2E7, 2696, 100)
    assert blob.bytes[header.manifest_offset :] == HEADER.manifest
    process = blob.at("struct wr_process", header.processes_offset)
    assert (process.pid, process.threads, process.map_id, process.records_count) == (123, 3, 8, 5)
    assert (process.main_program, process.pager_program, process.flags) == (1, 4, 1)
    assert list(process.bases)[:3] == [0x10000000, 0x7F0000000000, 0]
    assert list(process.base_bytes)[:3] == [0x200000, 0x100000, 0]
    pids = [blob.at("int32_t", header.pids_offset, i) for i in range(header.pids_count)]
    assert pids == [123, 124]
    segments = [
        blob.at("struct wr_segment", process.segments_offset, i) for i in range(process.segments_count)
    ]
    assert [(s.start, s.end, s.flags, s.prot) for s in segments] == [
        (s.start, s.end, s.flags, s.prot) for s in SEGMENTS
    ]


def test_stacks_lie_behind_the_blob_aligned_and_apart() -> None:
    blob = Blob(Image(threads=2))
    tops = [blob.at("struct wr_program", blob.header.programs_offset, i).stack_offset for i in range(4)]
    assert (tops[0], tops[3]) == (0, 0)
    assert all(top % 16 == 0 and top - STACK_BYTES >= len(blob.bytes) for top in tops[1:3])
    assert tops[2] - tops[1] == STACK_BYTES
    assert tops[2] <= blob.header.memory_bytes


def test_arguments_of_each_kind() -> None:
    image = Image()
    data, room, text = image.data(b"12345678"), image.reserve(32), image.string("path")
    slot = image.main.call(NR.openat, -100, text, 0o2, data + 4)
    image.main.syscall(NR.mmap, slot + -1, room + 8, SLOT.region_end, expect=exactly(-5))
    image.main.wait(CTL.go)
    blob = Blob(image)
    first = blob.op(1, 0)
    assert (first.kind, first.nr, first.result) == (lib.WR_OP_SYSCALL, NR.openat, slot.index)
    assert (first.args[0].kind, first.args[0].value) == (lib.WR_IMM, (1 << 64) - 100)
    assert first.args[1].kind == lib.WR_DATA
    assert blob.text(first.args[1].value) == "path"
    assert blob.bytes[first.args[3].value :][:4] == b"5678"
    assert (first.args[4].kind, first.args[4].value) == (lib.WR_IMM, 0)
    second = blob.op(1, 1)
    assert (second.args[0].kind, second.args[0].slot) == (lib.WR_SLOT, slot.index)
    assert second.args[0].value == (1 << 64) - 1
    assert second.args[1].value >= len(blob.bytes)
    assert (second.args[2].slot, second.args[2].value) == (lib.WR_SLOT_REGION_END, 0)
    assert (second.expect, second.expected, second.result) == (lib.WR_EXPECT_EXACT, -5, lib.WR_NO_SLOT)
    third = blob.op(1, 2)
    assert (third.kind, third.args[0].kind, third.args[0].value) == (lib.WR_OP_WAIT, lib.WR_CTL, 0)


def test_expectations_and_flags() -> None:
    image = Image()
    image.shared.syscall(NR.close, 3, expect=ANY)
    image.shared.syscall(NR.close, 3, expect=ok_or(errno.EBADF))
    image.shared.syscall(SLOT.uffd_nr, 1)
    image.shared.check_eq(1, 2, file_check=True)
    blob = Blob(image)
    assert blob.op(0, 0).expect == lib.WR_EXPECT_ANY
    assert (blob.op(0, 1).expect, blob.op(0, 1).expected) == (lib.WR_EXPECT_OK_OR, -errno.EBADF)
    assert (blob.op(0, 2).flags, blob.op(0, 2).nr) == (lib.WR_NR_FROM_SLOT, lib.WR_SLOT_UFFD_NR)
    assert (blob.op(0, 3).flags, blob.op(0, 3).kind) == (lib.WR_FILE_CHECK, lib.WR_OP_CHECK_EQ)


def test_left_out_when_equal() -> None:
    image = Image()
    slot = image.slot()
    with image.main.unless_eq(slot, 0):
        image.main.syscall(NR.getpid)
        image.main.syscall(NR.gettid)
    image.main.enter(0)
    blob = Blob(image)
    skip = blob.op(1, 0)
    assert skip.kind == wire.OpKind.SKIP_EQ
    assert [(arg.kind, arg.value) for arg in skip.args][:3] == [(1, 0), (0, 0), (0, 2)]
    assert blob.op(1, 3).kind == wire.OpKind.ENTER


def test_objects_nest_and_are_shared() -> None:
    image = Image()
    with image.about("outer", "do this"):
        image.main.wait(CTL.go)
        with image.about("inner"):
            image.main.wait(CTL.go)
        image.main.wait(CTL.go)
    image.main.wait(CTL.go)
    with image.about("outer", "do this"):
        image.main.wait(CTL.go)
    blob = Blob(image)
    assert [blob.op(1, i).object for i in range(5)] == [0, 1, 0, wire.NO_OBJECT, 0]
    assert blob.header.objects_count == 2
    outer = blob.at("struct wr_object", blob.header.objects_offset)
    assert (blob.text(outer.text_offset), blob.text(outer.hint_offset)) == ("outer", "do this")
    inner = blob.at("struct wr_object", blob.header.objects_offset, 1)
    assert (blob.text(inner.text_offset), blob.text(inner.hint_offset)) == ("inner", "")


def test_object_is_put_back_after_an_error() -> None:
    image = Image()
    with pytest.raises(ValueError, match="x"), image.about("outer"):
        raise ValueError("x")
    assert image.current_object == wire.NO_OBJECT


def test_data_keeps_its_alignment_in_the_blob() -> None:
    image = Image()
    image.data(b"1", align=1)
    image.main.store(image.data(bytes(64), align=64), 0)
    assert Blob(image).op(1, 0).args[0].value % 64 == 0


def test_equal_strings_share_a_place_and_bytes_survive() -> None:
    image = Image()
    assert image.string("a") == image.string(b"a")
    image.main.store(image.string("caf\udce9"), 0)
    blob = Blob(image)
    at = blob.op(1, 0).args[0].value
    assert blob.bytes[at : at + 5] == b"caf\xe9\0"


def test_ports() -> None:
    image = Image()
    address = image.data(b"\2\0\x1f\x90")
    image.port(address + 2, 6)
    blob = Blob(image)
    port = blob.at("struct wr_port", blob.header.ports_offset)
    assert (blob.bytes[port.value_offset :][:2], port.protocol) == (b"\x1f\x90", 6)


def test_slots_run_out_in_words() -> None:
    image = Image()
    with pytest.raises(Refused, match="more files open and mapped"):
        for _ in range(wire.SLOTS):
            image.slot()


def test_slots_count_covers_every_slot_used() -> None:
    image = Image()
    slot = image.main.load(image.reserve(8))
    assert Blob(image).header.slots_count == slot.index + 1


def test_syscall_names() -> None:
    assert NAMES[NR.openat] == "openat"
    assert NR.rt_sigreturn == 15
    assert len(NAMES) == len(set(NAMES.values()))
