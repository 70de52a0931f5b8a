# SPDX-License-Identifier: Apache-2.0
"""Signal frames, field by field; tests/live/test_programs.py has the kernel take them."""

from __future__ import annotations

import struct

import pytest

from restorer.errors import Refused
from restorer.model import Registers
from restorer.program import Image
from restorer.sigframe import Frame, Xstate, needed_features, pack_ucontext, pack_xstate, trim
from restorer.state import registers
from restorer.state.altstack import Altstack
from restorer.syscalls import NR

TILE_DATA = 1 << 18
NAMES = [f"r{n}" for n in range(8, 16)]
NAMES += ["rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"]


def numbered() -> Registers:
    return Registers.of(range(1000, 1027))


def area(size: int, features: int, used: int) -> bytes:
    content = bytearray(i % 251 for i in range(size))
    struct.pack_into("<Q", content, 464, features)
    struct.pack_into("<QQ", content, 512, used, 0)
    return bytes(content)


def test_general_registers_lie_where_the_kernel_reads_them() -> None:
    frame = Frame(numbered(), Xstate(b"", 0), 0xF0F0)
    context = pack_ucontext(frame, Altstack(0x5000, 1 << 31, 0x2000).pack())
    assert len(context) == 304
    flags, link, stack, stack_flags, stack_size = struct.unpack_from("<QQQI4xQ", context)
    assert (flags, link, stack, stack_flags, stack_size) == (7, 0, 0x5000, 1 << 31, 0x2000)
    values = struct.unpack_from("<18Q", context, 40)
    assert dict(zip(NAMES, values, strict=True)) == {name: getattr(numbered(), name) for name in NAMES}
    cs, gs, fs, ss = struct.unpack_from("<4H", context, 40 + 144)
    assert (cs, gs, fs, ss) == (numbered().cs, 0, 0, numbered().ss)
    assert struct.unpack_from("<Q", context, 296) == (0xF0F0,)


def test_extended_state_carries_the_kernels_marks() -> None:
    original = area(2696, 0x2E7, 0x207)
    packed = pack_xstate(trim(original, 1))
    assert struct.unpack_from("<IIQI", packed, 464) == (0x46505853, 2700, 0x2E7, 2696)
    assert struct.unpack_from("<I", packed, 2696) == (0x46505845,)
    assert packed[:464] == original[:464]
    assert packed[512:2696] == original[512:]


def test_room_for_unused_tiles_is_cut_off() -> None:
    xstate = trim(area(2816 + 8192, 0x602E7, 0x7), 1)
    assert (len(xstate.area), xstate.features) == (2816, 0x202E7)
    assert needed_features(xstate) == 0x2E7


def test_tiles_in_use_are_refused() -> None:
    with pytest.raises(Refused, match="thread 42 uses AMX"):
        trim(area(2816 + 8192, 0x602E7, TILE_DATA | 7), 42)


def test_no_xsave_is_refused() -> None:
    with pytest.raises(Refused, match="XSAVE"):
        trim(bytes(512), 1)


def test_emit_points_the_frame_to_its_extended_state() -> None:
    image = Image()
    frame = Frame(numbered(), Xstate(area(832, 7, 7), 7), 0)
    context = registers.emit(frame, Altstack(0, 2, 0), image, 0)
    store, set_gs, set_fs = image.main.ops
    assert store.args[0] == context + (40 + 184)
    assert (set_gs.nr, set_gs.args) == (NR.arch_prctl, (0x1001, numbered().gs_base))
    assert set_fs.args == (0x1002, numbered().fs_base)
