# SPDX-License-Identifier: Apache-2.0
"""Dataclasses that several modules share. They hold facts; nothing here touches the system."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from restorer.record import dataclass

__all__ = ["HUGE_ANONYMOUS", "Chunk", "ImageInfo", "Registers", "Vma"]

_DELETED = " (deleted)"
HUGE_ANONYMOUS = "/anon_hugepage (deleted)"


@dataclass(frozen=True)
class Vma:
    """One line of /proc/PID/smaps: addresses in bytes, `end` exclusive.

    `path` is the mapped file's, unescaped, "" for anonymous memory; `name` is what the kernel calls a
    mapping without a file ("[heap]", "[stack]", "[vdso]", "[anon:foo]"), or "". `flags` are the
    two-letter VmFlags ("rd", "wr", "mr", "lo", "gd", ...). `pkey` is the memory protection key.
    """

    start: int
    end: int
    prot: int
    shared: bool
    offset: int
    dev: tuple[int, int]
    inode: int
    path: str
    name: str
    flags: frozenset[str] = frozenset()
    pkey: int = 0

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self.end - self.start

    @property
    def anonymous(self) -> bool:
        """No file behind it; also true for the heap, stacks and named anonymous memory.

        Special mappings ([vdso], [vvar], ...) are not anonymous, nor is shared anonymous memory: the
        kernel keeps that in a file of its own, "/dev/zero (deleted)".
        """
        return not self.path and not self.shared and not self.special

    @property
    def special(self) -> bool:
        """Made by the kernel itself: vDSO, its data pages, vsyscall, uprobes."""
        return self.name in _SPECIAL

    @property
    def deleted(self) -> bool:
        """The file was unlinked after it was mapped."""
        return self.path.endswith(_DELETED)

    @property
    def readable(self) -> bool:
        """PROT_READ."""
        return bool(self.prot & mmap.PROT_READ)

    @property
    def writable(self) -> bool:
        """PROT_WRITE."""
        return bool(self.prot & mmap.PROT_WRITE)

    @property
    def executable(self) -> bool:
        """PROT_EXEC."""
        return bool(self.prot & mmap.PROT_EXEC)

    def __str__(self) -> str:
        letters = "".join(c if self.prot & bit else "-" for c, bit in zip("rwx", (1, 2, 4), strict=True))
        what = self.path or self.name or "anonymous"
        return f"{self.start:x}-{self.end:x} {letters}{'s' if self.shared else 'p'} {what}"


_SPECIAL = frozenset(
    {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]", "[sigpage]", "[vectors]"}
)


@dataclass(frozen=True)
class Registers:
    """The general registers of a thread, in the order of the kernel's struct user_regs_struct (u64 each)."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int

    @classmethod
    def of(cls, words: Iterable[int]) -> Registers:
        """From 27 words in the kernel's order."""
        return cls(*words)

    def words(self) -> tuple[int, ...]:
        """27 words in the kernel's order."""
        return tuple(vars(self).values())

    def but(self, **changes: int) -> Registers:
        """A copy with some registers changed; values may be negative, they are taken modulo 2**64."""
        return replace(self, **{name: value % (1 << 64) for name, value in changes.items()})

    @property
    def syscall(self) -> int:
        """The number of the syscall the thread is in, -1 if it is in none."""
        return _signed(self.orig_rax)

    @property
    def result(self) -> int:
        """rax as a signed number: a syscall's result, negative errno for an error."""
        return _signed(self.rax)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


class Place(NamedTuple):
    """Where a chunk's frame begins: the sequence number of its pack, and the byte in there."""

    seq: int
    offset: int

    def __str__(self) -> str:
        return f"{self.seq}+{self.offset}"


@dataclass(frozen=True)
class Chunk:
    """Up to 16 pages of one 64 KiB window, where they lie in the store.

    `addr` is the window's, bit i of `mask` says that page i of it is stored, `flags` are wr_record_flags.
    """

    addr: int
    place: Place
    check: int
    frame_bytes: int
    mask: int
    flags: int

    @property
    def pages(self) -> int:
        """How many pages are stored."""
        return self.mask.bit_count()


@dataclass(frozen=True)
class ImageInfo:
    """What a list of images shows. `created` in seconds since the epoch, sizes in bytes.

    `memory_bytes` is what the image's pages decode to, `stored_bytes` what its chunks take in the store
    (chunks shared with other images count in each). `manifest` is the image's own description.
    """

    name: str
    id: int
    created: float
    pid: int
    command: str
    memory_bytes: int
    stored_bytes: int
    manifest: dict[str, Any]
