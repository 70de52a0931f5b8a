# SPDX-License-Identifier: Apache-2.0
"""The address space: which mappings there are, and how each comes back empty, ready for its pages."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import replace

from restorer import wire
from restorer.errors import Refused, RestorerError
from restorer.model import HUGE_ANONYMOUS, Vma
from restorer.pagemap import has_private_pages
from restorer.program import CTL, SLOT, Image, Segment
from restorer.record import dataclass
from restorer.state import (
    contents,
    filepages,
    guards,
    hugetlb,
    mapped_files,
    mempolicies,
    othernames,
    shmfiles,
)
from restorer.state.contents import NO_CONTENTS, Content, Contents
from restorer.state.filepages import Run
from restorer.state.hugetlb import Huge
from restorer.state.mapped_files import MappedFile
from restorer.state.mempolicies import Policy
from restorer.syscalls import NR
from restorer.tracee import Tracee
from restorer.wire import SegmentFlag

_MAP_FIXED_NOREPLACE = 0x100000
_MAP_GROWSDOWN = 0x100
_MAP_NORESERVE = 0x4000
_MAP_DROPPABLE = 0x8
_MADV_DONTFORK = 10
_MLOCK_ONFAULT = 1
_MCL_FUTURE, _MCL_ONFAULT = 2, 4
_PR_SET_VMA = 0x53564D41
_PR_SET_VMA_ANON_NAME = 0
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

# VmFlags of smaps -> advice of madvise(2), where a flag of the mapping does not follow from how it was made.
_ADVICE = {
    "dd": 16,  # MADV_DONTDUMP
    "dc": 10,  # MADV_DONTFORK
    "wf": 18,  # MADV_WIPEONFORK
    "hg": 14,  # MADV_HUGEPAGE
    "nh": 15,  # MADV_NOHUGEPAGE
    "mg": 12,  # MADV_MERGEABLE
    "sr": 2,  # MADV_SEQUENTIAL
    "rr": 1,  # MADV_RANDOM
}
_UNSUPPORTED = {
    "um": "registered with userfaultfd",
    "uw": "registered with userfaultfd",
    "ui": "registered with userfaultfd",
    "ss": "a shadow stack",
    "pf": "memory of a device",
    "io": "memory of a device",
    "mm": "memory of a device",
}
_IO_URING = "anon_inode:[io_uring]"
IO_URING_HINT = (
    "start it without: uvicorn with --loop asyncio, MariaDB with --innodb-use-native-aio=0, "
    "any program after sysctl kernel.io_uring_disabled=2"
)
_AIO = "/[aio] (deleted)"
_AIO_HINT = (
    "start it without: MariaDB and MySQL with --innodb-use-native-aio=0, QEMU with aio=threads, "
    "any program after sysctl fs.aio-max-nr=0"
)
_KERNEL_OBJECTS = {
    "/secretmem": "memory of a memfd_secret",
    "anon_inode:": "memory of a kernel object",
    "socket:": "memory of a socket, such as the ring of a packet socket of libpcap",
}


@dataclass(frozen=True)
class Mapping:
    """A VMA that mmap makes again. `written`: a private file mapping with pages of its own. `content`: what
    is mapped has no name, and its bytes travel in the image. `huge`: of pages of hugetlbfs. `in_use`: what of
    `file` it had in its page tables."""

    vma: Vma
    file: MappedFile | None
    written: bool
    content: Content | None = None
    huge: Huge | None = None
    in_use: tuple[Run, ...] = ()

    @property
    def droppable(self) -> bool:
        """MAP_DROPPABLE: its pages may be gone at any time, so none is kept."""
        return "dp" in self.vma.flags

    @property
    def lazy(self) -> bool:
        """Private anonymous memory, filled by way of userfaultfd."""
        return self.file is None and self.content is None and self.huge is None and not self.droppable

    @property
    def locked(self) -> bool:
        """mlocked."""
        return "lo" in self.vma.flags

    @property
    def sealed(self) -> bool:
        """mseal(2)."""
        return "sl" in self.vma.flags

    @property
    def late_prot(self) -> bool:
        """Needs to be writable until its pages are in place, then gets its protection."""
        return self.written and self.vma.prot & _READ_WRITE != _READ_WRITE


@dataclass(frozen=True)
class Vmas:
    """The mappings in order of address, without the kernel's own; `lock_future` is for mlockall(2), `guards`
    are (start, end), `policies` (start, bytes, policy).
    """

    mappings: tuple[Mapping, ...]
    lock_future: int
    guards: tuple[tuple[int, int], ...] = ()
    policies: tuple[tuple[int, int, Policy], ...] = ()


def capture(tracee: Tracee, brought: frozenset[shmfiles.Id] = frozenset()) -> Vmas:
    """Describes the mappings; `brought` are the files with a name whose bytes travel in the image. Raises
    Refused that names every one which cannot be restored.
    """
    mappings: list[Mapping] = []
    problems: list[str] = []
    hint = ""
    for vma in tracee.vmas:
        if vma.name in ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"):
            continue
        try:
            mappings.append(_capture_one(tracee, vma, brought))
        except RestorerError as error:
            problems.append(error.cause)
            hint = hint or error.hint
    if problems:
        raise Refused("; ".join(dict.fromkeys(problems)), hint)
    found = [mapping.vma for mapping in mappings]
    return Vmas(
        tuple(mappings),
        _lock_future(tracee),
        guards.capture(tracee, found),
        mempolicies.capture(tracee, found),
    )


def _lock_future(tracee: Tracee) -> int:
    """Flags for mlockall(2), 0 for none. No file shows MCL_FUTURE, but a mapping made under it is locked."""
    scratch = tracee.scratch
    locked_bytes = sum(vma.length for vma in tracee.vmas if "lo" in vma.flags)
    if tracee.process.status.number("VmLck", 0) * 1024 <= locked_bytes:
        return 0
    flags = next((vma.flags for vma in tracee.process.vmas() if vma.start <= scratch < vma.end), frozenset())
    if "lo" not in flags:
        return 0
    return _MCL_FUTURE | _MCL_ONFAULT if "lf" in flags else _MCL_FUTURE


def _capture_one(tracee: Tracee, vma: Vma, brought: frozenset[shmfiles.Id]) -> Mapping:
    if vma.path == _IO_URING:
        raise Refused("io_uring cannot be checkpointed", IO_URING_HINT)
    if vma.path == _AIO:
        # Its ring could be made again, but requests that the kernel has taken and not finished no call shows.
        cause = "a context of asynchronous I/O (io_setup) cannot be checkpointed: its requests cannot be seen"
        raise Refused(cause, _AIO_HINT)
    reason = _why_not(vma)
    if reason:
        raise Refused(f"memory at {vma} cannot be checkpointed: {reason}")
    if not vma.path:
        return Mapping(vma, None, False)
    huge = hugetlb.capture(tracee, vma) if hugetlb.FLAG in vma.flags else None
    if huge is not None:
        written = bool(huge.populated)
    else:
        written = not vma.shared and has_private_pages(tracee.pid, vma.start, vma.end)
    if vma.path == HUGE_ANONYMOUS and not vma.shared:
        return Mapping(vma, None, written, None, huge)
    if vma.path.endswith(" (deleted)") and _is_program(tracee, vma):
        return Mapping(vma, mapped_files.capture_deleted(vma.path, f"{tracee.process.folder}/exe"), written)
    if contents.kind_of(vma.path) == contents.UNLINKED:
        vma = replace(vma, path=_kept_name(tracee, vma) or vma.path)
    if (os.makedev(*vma.dev), vma.inode) in brought:
        shm = contents.capture_named(vma.path, shmfiles.source_of(tracee.pid, vma))
        return Mapping(vma, None, written, shm)
    if contents.kind_of(vma.path):
        found = contents.capture(vma.path, shmfiles.source_of(tracee.pid, vma))
        if found.kind == contents.SHARED and vma.offset + vma.length > found.mapped_bytes:
            raise Refused(f"memory at {vma} was grown beyond the shared memory that it shows")
        whole = vma.shared and not vma.offset and vma.length == found.mapped_bytes
        if found.kind == contents.SYSV and not whole:
            raise Refused(f"memory at {vma} is only a part of {found}", "detach it first")
        return Mapping(vma, None, written, found, huge)
    writable = vma.shared and "mw" in vma.flags
    # The path as seen from our root, not the process's: seq_path in fs/proc/task_mmu.c goes by the reader.
    file = mapped_files.capture(vma.path, _stat_mapped(tracee, vma), writable=writable)
    return Mapping(vma, file, written, None, huge, filepages.capture(tracee.pid, vma))


def _why_not(vma: Vma) -> str:
    if vma.end > wire.TASK_SIZE:
        return "it lies above 128 TiB"
    if vma.pkey:
        return f"it has protection key {vma.pkey}"
    # First: the memory of some has the flags of a device's.
    for prefix, reason in _KERNEL_OBJECTS.items():
        if vma.path.startswith(prefix):
            return reason
    for flag, reason in _UNSUPPORTED.items():
        if flag in vma.flags:
            return reason
    if vma.special or (vma.shared and not vma.path):
        return "it is made by the kernel itself"
    return ""


def _is_program(tracee: Tracee, vma: Vma) -> bool:
    if contents.kind_of(vma.path) != contents.UNLINKED:
        return False
    try:
        return os.path.samestat(_stat_mapped(tracee, vma), tracee.process.stat_of("exe"))
    except RestorerError:
        return False


def _kept_name(tracee: Tracee, vma: Vma) -> str | None:
    try:
        return othernames.find(vma.path, os.stat(shmfiles.source_of(tracee.pid, vma)))
    except OSError:
        return None


def _stat_mapped(tracee: Tracee, vma: Vma) -> os.stat_result:
    try:
        return os.stat(shmfiles.source_of(tracee.pid, vma))
    except OSError as error:
        raise Refused(f"mapped file {vma.path}: {error.strerror}", "run as root") from None


def emit_hide_region(image: Image) -> None:
    """Keeps the region out of forked children; UFFDIO_MOVE takes no page that a child shares."""
    with image.about("the address space"):
        image.main.syscall(NR.madvise, SLOT.region, SLOT.region_bytes, _MADV_DONTFORK)


def emit_clear(image: Image) -> None:
    """Unmaps everything outside the region."""
    with image.about("the address space"):
        image.main.syscall(NR.munmap, 0, SLOT.region)
        image.main.syscall(NR.munmap, SLOT.region_end, SLOT.tail_bytes)


def emit(state: Vmas, image: Image, carried: Contents = NO_CONTENTS) -> None:
    """Maps every VMA, without contents; `carried` are the files without a name that some of them show."""
    places = carried.windows
    filepages.emit(((mapping.file, mapping.in_use) for mapping in state.mappings if mapping.file), image)
    for mapping in state.mappings:
        with image.about(f"memory at {mapping.vma}", _hint(mapping)):
            _emit_map(mapping, 0 if mapping.content is None else places.get(mapping.content, 0), image)
            _emit_advice(mapping, image)
    mempolicies.emit(state.policies, image)
    guards.emit(state.guards, image)
    for mapping in state.mappings:
        if mapping.huge is not None:
            with image.about(f"memory at {mapping.vma}", _hint(mapping)):
                hugetlb.emit_populate(0, mapping.huge.populated, image)


def _hint(mapping: Mapping) -> str:
    return "" if mapping.huge is None else hugetlb.hint(mapping.huge.page_bytes)


def _emit_map(mapping: Mapping, window: int, image: Image) -> None:
    vma = mapping.vma
    prot = _READ_WRITE if mapping.late_prot else vma.prot
    flags = _map_flags(mapping)
    if mapping.content is not None:
        may_write = vma.shared and "mw" in vma.flags
        place = (vma.start, vma.length, prot, vma.offset)
        contents.emit_map(mapping.content, window, place, flags, may_write, image)
        return
    fd = -1 if mapping.file is None else mapped_files.emit_open(mapping.file, image)
    offset = 0 if flags & mmap.MAP_ANONYMOUS else vma.offset
    image.main.syscall(NR.mmap, vma.start, vma.length, prot, flags, fd, offset)


def _emit_advice(mapping: Mapping, image: Image) -> None:
    vma = mapping.vma
    for flag, advice in _ADVICE.items():
        if flag in vma.flags and not mapping.droppable:
            image.main.syscall(NR.madvise, vma.start, vma.length, advice)
    if vma.name.startswith("[anon:"):
        name = image.string(vma.name[len("[anon:") : -1])
        image.main.syscall(NR.prctl, _PR_SET_VMA, _PR_SET_VMA_ANON_NAME, vma.start, vma.length, name)


def _map_flags(mapping: Mapping) -> int:
    vma = mapping.vma
    flags = _MAP_FIXED_NOREPLACE
    if mapping.droppable:
        return flags | _MAP_DROPPABLE | mmap.MAP_ANONYMOUS
    flags |= mmap.MAP_SHARED if vma.shared else mmap.MAP_PRIVATE
    if mapping.file is None and mapping.content is None:
        flags |= mmap.MAP_ANONYMOUS
        if mapping.huge is not None:
            flags |= hugetlb.with_size(hugetlb.MAP_HUGETLB, mapping.huge.page_bytes)
    if "nr" in vma.flags:
        flags |= _MAP_NORESERVE
    if "gd" in vma.flags:
        flags |= _MAP_GROWSDOWN
    return flags


def emit_late(state: Vmas, image: Image) -> None:
    """Waits for the never-lazy pages; then what could not be done before: protections, mlock, mseal."""
    image.main.wait(CTL.eager_done)
    for mapping in state.mappings:
        if mapping.late_prot or mapping.locked or mapping.sealed:
            with image.about(f"memory at {mapping.vma}"):
                _emit_late_one(mapping, image)
    if state.lock_future:
        with image.about("mlockall"):
            image.main.syscall(NR.mlockall, state.lock_future)


def _emit_late_one(mapping: Mapping, image: Image) -> None:
    vma = mapping.vma
    if mapping.late_prot:
        image.main.syscall(NR.mprotect, vma.start, vma.length, vma.prot)
    if mapping.locked:
        how = _MLOCK_ONFAULT if "lf" in vma.flags else 0
        image.main.syscall(NR.mlock2, vma.start, vma.length, how)
    if mapping.sealed:
        image.main.syscall(NR.mseal, vma.start, vma.length, 0)


def content(state: Vmas) -> tuple[Vma, ...]:
    """The VMAs whose pages belong into the image."""
    return tuple(mapping.vma for mapping in state.mappings if mapping.lazy or mapping.written)


def carried(state: Vmas) -> Iterator[Content]:
    """The mapped files without a name, whose bytes travel in the image."""
    return (mapping.content for mapping in state.mappings if mapping.content is not None)


def lazy_runs(state: Vmas) -> Iterator[tuple[int, int]]:
    """(start, end) of each gapless run of lazy VMAs: one UFFDIO_REGISTER each."""
    start = end = 0
    for mapping in state.mappings:
        if not mapping.lazy:
            continue
        if mapping.vma.start != end:
            if end:
                yield start, end
            start = mapping.vma.start
        end = mapping.vma.end
    if end:
        yield start, end


def segments(state: Vmas) -> tuple[Segment, ...]:
    """What the pager must know, neighbours that are alike in one."""
    found: list[Segment] = []
    for mapping in state.mappings:
        flags = _segment_flags(mapping)
        if not flags:
            continue
        vma = mapping.vma
        last = found[-1] if found else None
        if last and (last.end, last.flags, last.prot) == (vma.start, flags, vma.prot):
            found[-1] = Segment(last.start, vma.end, flags, vma.prot)
        else:
            found.append(Segment(vma.start, vma.end, flags, vma.prot))
    return tuple(found)


def _segment_flags(mapping: Mapping) -> SegmentFlag:
    if mapping.written:
        return SegmentFlag.WRITE
    if not mapping.lazy:
        return SegmentFlag.NONE
    flags = SegmentFlag.LAZY
    if mapping.vma.prot == _READ_WRITE and not mapping.locked:
        flags |= SegmentFlag.MOVE
    if "hg" in mapping.vma.flags:
        flags |= SegmentFlag.HUGE
    if "nh" in mapping.vma.flags:
        flags |= SegmentFlag.NOHUGE
    if "wf" in mapping.vma.flags:
        flags |= SegmentFlag.WIPEONFORK
    return flags
