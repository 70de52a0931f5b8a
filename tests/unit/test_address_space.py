# SPDX-License-Identifier: Apache-2.0
"""The address space without a restore: holes, segments, runs, refusals, mapped files, private pages."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from restorer import wire
from restorer.errors import Refused
from restorer.holes import candidate_bases, windows
from restorer.model import HUGE_ANONYMOUS, Vma
from restorer.pagemap import has_private_pages, private_runs
from restorer.program import Image, Segment
from restorer.state import contents, hugeroom, mapped_files, vmas
from restorer.state.contents import Content, Contents
from restorer.state.hugetlb import Huge
from restorer.state.mapped_files import MappedFile
from restorer.state.vmas import Mapping, Vmas
from restorer.syscalls import NR

READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
MIB2 = 2 << 20
# Ten pages, of which the first is there.
SHARED = Content(
    dev=1,
    inode=1,
    kind=contents.SHARED,
    name="",
    source="",
    size_bytes=10 * MIB2,
    mode=0o600,
    owner=(0, 0),
    times_ns=(0, 0),
    seals=0,
    extents=((0, MIB2),),
    xattrs=(),
    place=None,
    huge_bytes=MIB2,
)
FILE = MappedFile("/lib/x.so", 8192, 0, False)
LAZY, MOVE, HUGE = wire.SegmentFlag.LAZY, wire.SegmentFlag.MOVE, wire.SegmentFlag.HUGE


def vma(start: int, end: int, prot: int = READ | WRITE, **other: Any) -> Vma:
    facts = {"shared": False, "offset": 0, "dev": (0, 0), "inode": 0, "path": "", "name": ""}
    return Vma(start=start, end=end, prot=prot, **{**facts, **other})


def anonymous(start: int, end: int, prot: int = READ | WRITE, flags: str = "") -> Mapping:
    return Mapping(vma(start, end, prot, flags=frozenset(flags.split())), None, False)


def of_file(start: int, end: int, prot: int, written: bool) -> Mapping:
    return Mapping(vma(start, end, prot, path="/lib/x.so"), FILE, written)


def test_holes_keep_away_from_all_that_is_used() -> None:
    used = [
        (0x555500000000, 0x555500400000),
        (0x7FFF00000000, 0x7FFF00021000),
        (0x7F0000000000, 0x7F0000900000),
    ]
    places = candidate_bases(used)
    assert 1 <= len(places) <= wire.BASES
    assert [size for _, size in places] == sorted((size for _, size in places), reverse=True)
    for start, size in places:
        assert start % wire.PAGE_BYTES == size % wire.PAGE_BYTES == 0
        assert start >= 1 << 28
        assert start + size < wire.TASK_SIZE
        assert all(start + size <= low or start >= high for low, high in used)
        # The heap of one program must be able to grow by a gigabyte before it meets the region.
        assert start - 0x555500400000 >= 1 << 30 or start < 0x555500000000


def test_windows_of_huge_pages_are_aligned() -> None:
    sizes = [1 << 20, 4 << 20]
    places = windows([(0x7F0000000000, 0x7F0000900000)], sizes, 1 << 30)
    assert [start % (1 << 30) for start in places] == [0, 0]
    assert abs(places[1] - places[0]) >= max(sizes)


def huge(start: int, pages: int, populated: tuple[tuple[int, int], ...] = (), **facts: Any) -> Mapping:
    found = vma(start, start + pages * MIB2, path=HUGE_ANONYMOUS, **facts)
    content = SHARED if found.shared else None
    return Mapping(found, None, bool(populated), content, Huge(MIB2, populated))


def test_room_for_huge_pages() -> None:
    """What is reserved, or was there; memory that two processes share is counted once."""
    loose = frozenset({"nr"})
    first = Vmas(
        (
            huge(0, 3),
            huge(8 * MIB2, 100, ((8 * MIB2, 9 * MIB2), (20 * MIB2, 22 * MIB2)), flags=loose),
            huge(200 * MIB2, 2, shared=True, offset=MIB2),
            huge(210 * MIB2, 9, shared=True, flags=loose),
        ),
        0,
    )
    second = Vmas((huge(0, 2, shared=True, offset=MIB2), anonymous(9 * MIB2, 10 * MIB2)), 0)
    assert hugeroom.needed([(first, Contents(((SHARED, 0),))), (second, Contents(()))]) == {MIB2: 3 + 3 + 3}
    assert not hugeroom.needed([(Vmas((anonymous(0, MIB2),), 0), Contents(()))])


def test_no_hole_no_base() -> None:
    assert candidate_bases([(0x1000, wire.TASK_SIZE)]) == ()


def test_overlapping_and_unsorted_ranges_are_taken() -> None:
    assert candidate_bases([(1 << 40, 3 << 40), (1 << 39, 2 << 40)])[0][0] >= 3 << 40


def test_runs_join_neighbours_only() -> None:
    state = Vmas(
        (
            anonymous(0x1000, 0x2000),
            anonymous(0x2000, 0x4000, READ),
            of_file(0x4000, 0x5000, READ, True),
            anonymous(0x5000, 0x6000),
            anonymous(0x8000, 0x9000, flags="dp"),
            anonymous(0x9000, 0xA000),
        ),
        0,
    )
    assert list(vmas.lazy_runs(state)) == [(0x1000, 0x4000), (0x5000, 0x6000), (0x9000, 0xA000)]
    assert list(vmas.lazy_runs(Vmas((), 0))) == []


def test_segments() -> None:
    state = Vmas(
        (
            anonymous(0x1000, 0x2000),
            anonymous(0x2000, 0x3000),
            anonymous(0x3000, 0x4000, READ | WRITE | EXEC),
            anonymous(0x4000, 0x5000, flags="lo"),
            anonymous(0x5000, 0x6000, 0),
            anonymous(0x6000, 0x7000, flags="hg"),
            of_file(0x7000, 0x8000, READ, True),
            of_file(0x8000, 0x9000, READ, False),
            anonymous(0x9000, 0xA000, flags="dp"),
        ),
        0,
    )
    assert vmas.segments(state) == (
        Segment(0x1000, 0x3000, LAZY | MOVE, 3),
        Segment(0x3000, 0x4000, LAZY, 7),
        Segment(0x4000, 0x5000, LAZY, 3),
        Segment(0x5000, 0x6000, LAZY, 0),
        Segment(0x6000, 0x7000, LAZY | MOVE | HUGE, 3),
        Segment(0x7000, 0x8000, wire.SegmentFlag.WRITE, 1),
    )
    assert [found.start for found in vmas.content(state)] == [
        0x1000,
        0x2000,
        0x3000,
        0x4000,
        0x5000,
        0x6000,
        0x7000,
    ]


def test_written_code_gets_its_protection_late() -> None:
    image = Image()
    state = Vmas((of_file(0x7000, 0x8000, READ | EXEC, True),), 0)
    vmas.emit(state, image)
    vmas.emit_late(state, image)
    assert image.main.ops[0].args[:3] == (0x7000, 0x1000, READ | WRITE)
    assert (image.main.ops[-1].nr, image.main.ops[-1].args) == (NR.mprotect, (0x7000, 0x1000, READ | EXEC))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"flags": frozenset({"um"})}, "userfaultfd"),
        ({"flags": frozenset({"pf", "io"}), "path": "/dev/fb0"}, "device"),
        ({"flags": frozenset({"mm"}), "path": "socket:[7]", "shared": True}, "ring of a packet socket"),
        ({"pkey": 3}, "protection key 3"),
        ({"name": "[uprobes]"}, "kernel itself"),
        ({"path": "/gone (deleted)", "shared": True}, "/gone has been deleted"),
    ],
)
def test_refusals_name_the_mapping_and_the_reason(facts: dict[str, Any], reason: str) -> None:
    tracee: Any = SimpleNamespace(vmas=[vma(0x1000, 0x2000, **facts)], pid=os.getpid(), scratch=0)
    with pytest.raises(Refused, match=reason):
        vmas.capture(tracee)


def test_all_refusals_are_told_at_once() -> None:
    both = [vma(0x1000, 0x2000, pkey=1), vma(0x3000, 0x4000, pkey=2)]
    tracee: Any = SimpleNamespace(vmas=both, pid=os.getpid(), scratch=0)
    with pytest.raises(Refused, match=r"1000-2000.*; .*3000-4000"):
        vmas.capture(tracee)


def test_build_id(tmp_path: Path) -> None:
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text("int main(void) { return 0; }\n")
    wanted = "0123456789abcdef0123456789abcdef01234567"
    subprocess.run(["gcc", "-o", program, source, f"-Wl,--build-id=0x{wanted}"], check=True)
    offset, found = mapped_files.find_build_id(str(program))
    assert found.hex() == wanted
    assert program.read_bytes()[offset : offset + 20] == found


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58), b"text\n" * 100])
def test_files_without_a_build_id(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert mapped_files.find_build_id(str(path)) == (0, b"")


def test_replaced_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    mapped = path.stat()
    assert mapped_files.capture(str(path), mapped, writable=False).size == 100
    (tmp_path / "other").write_bytes(b"y")
    (tmp_path / "other").rename(path)
    with pytest.raises(Refused, match="replaced"):
        mapped_files.capture(str(path), mapped, writable=False)
    path.unlink()
    with pytest.raises(Refused, match="cannot be opened"):
        mapped_files.capture(str(path), mapped, writable=False)


def test_a_file_is_opened_once() -> None:
    image = Image()
    assert mapped_files.emit_open(FILE, image) == mapped_files.emit_open(FILE, image)
    assert sum(op.nr == NR.openat for op in image.shared.ops) == 1


def test_private_pages_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(16 * mmap.PAGESIZE))
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=READ | WRITE) as view,
    ):
        found = next(line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line)
        start, end = (int(word, 16) for word in found.split()[0].split("-"))
        assert view[5] == 0
        assert not has_private_pages(os.getpid(), start, end)
        view[9 * mmap.PAGESIZE] = view[10 * mmap.PAGESIZE] = view[15 * mmap.PAGESIZE] = 1
        assert has_private_pages(os.getpid(), start, end)
        runs = [(low - start, high - start) for low, high in private_runs(os.getpid(), start, end, 4096)]
        assert runs == [(9 * 4096, 11 * 4096), (15 * 4096, 16 * 4096)]
        assert list(private_runs(os.getpid(), start + 4096, start + 9 * 4096, 4096)) == []
