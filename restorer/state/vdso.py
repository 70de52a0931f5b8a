# SPDX-License-Identifier: Apache-2.0
"""The vDSO and its data pages: the kernel's own mappings, moved to where the program knows them.

Their code is the kernel's, so an image restores only where it is the same, byte for byte.
"""

from __future__ import annotations

import mmap

from restorer import wire
from restorer.errors import Refused
from restorer.program import SLOT, Image, Slot
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Tracee

_MREMAP_MOVE_TO = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
_MAP_SCRATCH = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
_PROT_NONE = 0
_MADV_DONTFORK = 10
_HINT = "the kernel is another than at the checkpoint: take a new checkpoint under this one"
_NAMES = ("[vvar]", "[vvar_vclock]", "[vdso]")
_SLOTS = {
    "[vvar]": (SLOT.vvar, SLOT.vvar_bytes),
    "[vvar_vclock]": (SLOT.vvar_vclock, SLOT.vvar_vclock_bytes),
    "[vdso]": (SLOT.vdso, SLOT.vdso_bytes),
}


@dataclass(frozen=True)
class Block:
    """One special mapping: its name, address and size in bytes."""

    name: str
    start: int
    length: int


@dataclass(frozen=True)
class Vdso:
    """The special mappings, and the vDSO's code; `syscall_insn` is the address of a `syscall` instruction."""

    blocks: tuple[Block, ...]
    code: bytes
    syscall_insn: int


def capture(tracee: Tracee) -> Vdso:
    """Reads the special mappings. Raises Refused for a layout that this kernel cannot have given."""
    blocks = tuple(Block(vma.name, vma.start, vma.length) for vma in tracee.vmas if vma.name in _NAMES)
    names = {block.name for block in blocks}
    if sum(block.length for block in blocks) > wire.SCRATCH_BYTES or len(names) < len(blocks):
        raise Refused("the vDSO of the process is not laid out as this kernel does")
    code = b""
    for block in blocks:
        if block.name == "[vdso]":
            code = tracee.read(block.start, block.length)
    return Vdso(blocks, code, tracee.syscall_address)


def emit_park(state: Vdso, image: Image) -> None:
    """Moves the launcher's blocks into scratch, in the order of `state`; the rest goes with the munmap."""
    with image.about("the vDSO", _HINT):
        at = SLOT.scratch
        for block in state.blocks:
            where, length = _SLOTS[block.name]
            image.main.check_eq(length, block.length)
            image.main.syscall(NR.mremap, where, block.length, block.length, _MREMAP_MOVE_TO, at)
            if block.name == "[vdso]":
                image.main.check_mem(at, image.data(state.code), len(state.code))
            at += block.length


def emit(state: Vdso, image: Image) -> None:
    """Moves the parked blocks to their addresses and closes the hole they leave in the region."""
    with image.about("the vDSO", _HINT):
        at: Slot = SLOT.scratch
        for block in state.blocks:
            image.main.syscall(NR.mremap, at, block.length, block.length, _MREMAP_MOVE_TO, block.start)
            at += block.length
        # A hole in the region would be given to the program's next mmap, and go with the region's munmap.
        image.main.syscall(NR.mmap, SLOT.scratch, wire.SCRATCH_BYTES, 0, _MAP_SCRATCH, -1, 0)
        image.main.syscall(NR.madvise, SLOT.scratch, wire.SCRATCH_BYTES, _MADV_DONTFORK)
