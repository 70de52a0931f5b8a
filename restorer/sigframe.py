# SPDX-License-Identifier: Apache-2.0
"""The signal frame from which rt_sigreturn(2) loads all registers of a thread and its mask at once."""

from __future__ import annotations

import struct

from restorer.errors import Refused
from restorer.model import Registers
from restorer.record import dataclass

__all__ = ["FPSTATE_AT", "Frame", "Xstate", "needed_features", "pack_ucontext", "pack_xstate", "trim"]

FPSTATE_AT = 40 + 184
"""Offset in struct ucontext of the pointer to the extended state."""

# arch/x86/include/uapi/asm/ucontext.h: extended state; ss is valid, and to be taken as it is
_UC_FLAGS = 0x1 | 0x2 | 0x4
_UC_HEAD = struct.Struct("<QQ")
_SIGCONTEXT = struct.Struct("<18Q4H4QQ64x")

# arch/x86/include/uapi/asm/sigcontext.h: struct _fpx_sw_bytes in the last 48 bytes of the legacy region
_MAGIC1, _MAGIC2 = 0x46505853, 0x46505845
_SW_AT = 464
_SW = struct.Struct("<IIQI28x")
_XSTATE_BV_AT = 512
_XSTATE_MIN_BYTES = 576
_U64 = struct.Struct("<Q")
_TILE_CONFIG, _TILE_DATA = 1 << 17, 1 << 18
_TILE_DATA_BYTES = 8192


@dataclass(frozen=True)
class Xstate:
    """The XSAVE area of a thread: bytes in the standard format; `features` is what the area has room for."""

    area: bytes
    features: int


@dataclass(frozen=True)
class Frame:
    """All that rt_sigreturn loads, and the bases of FS and GS."""

    regs: Registers
    xstate: Xstate
    sigmask: int


def trim(area: bytes, tid: int) -> Xstate:
    """The area as rt_sigreturn takes it.

    ptrace shows room for every feature the CPU has; a frame larger than the thread's own room would
    silently be taken for one without extended state (check_xstate_in_sigframe). Only AMX tiles are not in
    everyone's room.
    """
    if len(area) < _XSTATE_MIN_BYTES:
        raise Refused("this CPU has no XSAVE", "restorer needs one made since 2011")
    (features,) = _U64.unpack_from(area, _SW_AT)
    (used,) = _U64.unpack_from(area, _XSTATE_BV_AT)
    if used & _TILE_DATA:
        raise Refused(f"thread {tid} uses AMX tiles, which no signal frame brings back into a new thread")
    if features & _TILE_DATA:
        # Tile data is the last component of the standard format wherever there is one.
        features &= ~_TILE_DATA
        area = area[:-_TILE_DATA_BYTES]
    return Xstate(area, features)


def needed_features(xstate: Xstate) -> int:
    """XCR0 bits that a CPU must have: a program has chosen its code by them, used at the moment or not."""
    (used,) = _U64.unpack_from(xstate.area, _XSTATE_BV_AT)
    return xstate.features & ~_TILE_CONFIG | int(used)


def pack_xstate(xstate: Xstate) -> bytes:
    """The area with the kernel's marks, as a signal frame has it."""
    size = len(xstate.area)
    sw_bytes = _SW.pack(_MAGIC1, size + 4, xstate.features, size)
    return xstate.area[:_SW_AT] + sw_bytes + xstate.area[_XSTATE_BV_AT:] + struct.pack("<I", _MAGIC2)


def pack_ucontext(frame: Frame, altstack: bytes, fpstate: int = 0) -> bytes:
    """struct ucontext. `altstack` is a packed stack_t, `fpstate` the address of the extended state."""
    r = frame.regs
    upper = (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15)
    lower = (r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx)
    context = _SIGCONTEXT.pack(*upper, *lower, r.rsp, r.rip, r.eflags, r.cs, 0, 0, r.ss, 0, 0, 0, 0, fpstate)
    return _UC_HEAD.pack(_UC_FLAGS, 0) + altstack + context + _U64.pack(frame.sigmask)
