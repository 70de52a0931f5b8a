# SPDX-License-Identifier: Apache-2.0
"""Files whose bytes travel in the image: unlinked ones, memfds, shared anonymous memory, shared memory files.

Each is mapped shared, as a whole, at an address that is free in the image (its *window*), where the pager
puts its pages: before the program resumes, or lazily where lazyshared.py finds that this is safe.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace

from restorer import holes
from restorer.errors import Refused
from restorer.model import HUGE_ANONYMOUS
from restorer.program import CTL, STAGE, Image, Segment, Slot, ok_or
from restorer.record import dataclass
from restorer.state import hugetlb, shmfiles, sysvshm, unnamed
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR
from restorer.wire import CHUNK_BYTES, PAGE_BYTES, SegmentFlag

UNLINKED, MEMFD, SHARED, SYSV = "unlinked file", "memfd", "shared memory", "System V shared memory"
NAMED = "shared memory file"

_MAP_FIXED_NOREPLACE = 0x100000
_MAP_NORESERVE = 0x4000
_MREMAP_MAYMOVE_FIXED = 3
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MFD_CLOEXEC_ALLOW_SEALING = 3
_F_ADD_SEALS, _F_GET_SEALS, _F_SEAL_SEAL = 1033, 1034, 1
_O_TMPFILE_ONLY = 0o20000000
_EXTENTS_MAX = 256
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Content:
    """One such file, told from others by device, inode and kind (a System V
    segment's inode is its ID). `name` is a memfd's, or the path that an unlinked
    file had; `extents` are (start, end) of what is no hole; `source` is where its bytes are read from.
    `huge_bytes` is the size of its pages where they are hugetlbfs's, else 0.
    """

    dev: int
    inode: int
    kind: str
    name: str = field(compare=False)
    source: str = field(compare=False)
    size_bytes: int = field(compare=False)
    mode: int = field(compare=False)
    owner: tuple[int, int] = field(compare=False)
    times_ns: tuple[int, int] = field(compare=False)
    seals: int = field(compare=False)
    extents: tuple[tuple[int, int], ...] = field(compare=False)
    xattrs: tuple[tuple[str, bytes], ...] = field(compare=False)
    place: unnamed.Place | None = field(compare=False)
    segment: sysvshm.Segment | None = field(compare=False, default=None)
    huge_bytes: int = field(compare=False, default=0)

    @property
    def mapped_bytes(self) -> int:
        """The size in whole pages."""
        page_bytes = self.huge_bytes or PAGE_BYTES
        return -(-self.size_bytes // page_bytes) * page_bytes

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind


@dataclass(frozen=True)
class Contents:
    """Those that this process brings, each with the address of its window (0 for one that is empty), by
    address.

    `lent` are pieces of shared memory among them that other processes of the tree map too, `borrowed` those
    that this one gets from another, with the ID of that one: each with the number of the fd that it is
    handed over by. `lenders` is how many processes of the tree lend any. `lazy` are those that this process
    maps and that come lazily, whoever brings them; their windows stay until they are loaded.
    """

    files: tuple[tuple[Content, int], ...]
    lent: tuple[tuple[Content, int], ...] = ()
    borrowed: tuple[tuple[Content, int, int], ...] = ()
    lenders: int = 0
    lazy: tuple[tuple[Content, int], ...] = ()

    @property
    def eager(self) -> tuple[tuple[Content, int], ...]:
        """Those of `files` that are there before resume."""
        return tuple(pair for pair in self.files if pair not in self.lazy)

    @property
    def windows(self) -> dict[Content, int]:
        """Where each of those that this process brings or maps lazily has its window."""
        return dict((*self.files, *self.lazy))


NO_CONTENTS = Contents(())


def kind_of(link: str) -> str:
    """Which of the kinds a path in /proc means; "" for none of them."""
    if link in ("/dev/zero (deleted)", HUGE_ANONYMOUS):
        return SHARED
    if link.startswith("/memfd:"):
        return MEMFD
    if link.startswith(sysvshm.PREFIX):
        return SYSV
    return UNLINKED if link.endswith(" (deleted)") else ""


def capture_named(path: str, source: str) -> Content:
    """Describes a shared memory file (shmfiles.py). Raises Refused where `path` leads to another one."""
    try:
        same = os.path.samestat(os.lstat(path), os.stat(source))
    except OSError:
        same = False
    if not same:
        raise Refused(f"mapped file {path} was replaced or hidden while the process ran", "restart it first")
    return capture(path, source, NAMED)


def capture(link: str, source: str, kind: str = "") -> Content:
    """Describes the file at `source`, a link of /proc that leads to it. Raises Refused.

    An unlinked file that still has a name elsewhere is refused: it would not be the same file any more.
    """
    kind, name = kind or kind_of(link), link.removesuffix(" (deleted)")
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise Refused(f"{name} has been deleted, and is no regular file")
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{name} has been deleted, and cannot be read ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if kind == UNLINKED and status.st_nlink:
            raise Refused(
                f"{name} has been deleted", "only regular files without any name can be carried along"
            )
        huge_bytes = hugetlb.page_bytes(source)
        return Content(
            dev=status.st_dev,
            inode=status.st_ino,
            kind=kind,
            name="" if kind == SHARED else name.removeprefix("/memfd:") if kind == MEMFD else name,
            source=source,
            size_bytes=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            owner=(status.st_uid, status.st_gid),
            times_ns=(status.st_atime_ns, status.st_mtime_ns),
            seals=fcntl.fcntl(fd, _F_GET_SEALS) if kind == MEMFD else 0,
            extents=tuple(_extents(fd, status.st_size)),
            xattrs=_xattrs(fd) if kind in (UNLINKED, NAMED) else (),
            place=unnamed.find_place(name, fd) if kind == UNLINKED else None,
            segment=sysvshm.capture(status.st_ino, huge_bytes) if kind == SYSV else None,
            huge_bytes=huge_bytes,
        )
    finally:
        os.close(fd)


def _extents(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    try:
        names = [name for name in os.listxattr(fd) if name.startswith("user.")]
    except OSError:
        return ()
    return tuple((name, os.getxattr(fd, name)) for name in names)


def place(found: Iterable[Content], used: Iterable[tuple[int, int]]) -> Contents:
    """Gives each a window outside of the `used` address ranges. Raises Refused when there is no room."""
    files = [_with_extents(one) for one in dict.fromkeys(found)]
    full = [one for one in files if one.size_bytes]
    align_bytes = max((one.huge_bytes for one in full), default=0)
    starts = holes.windows(used, [one.mapped_bytes for one in full], max(align_bytes, CHUNK_BYTES))
    if len(starts) < len(full):
        raise Refused(f"its address space has no room for {full[len(starts)]}")
    empty = [(one, 0) for one in files if not one.size_bytes]
    return Contents((*empty, *sorted(zip(full, starts, strict=True), key=lambda pair: pair[1])))


def _with_extents(content: Content) -> Content:
    """Of huge pages they take long to find: once for each file, not for each of its mappings."""
    if not content.huge_bytes:
        return content
    fd = os.open(content.source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return replace(content, extents=hugetlb.extents(fd, content.huge_bytes))
    finally:
        os.close(fd)


def divide(
    found: Sequence[Sequence[Content]],
    used: Sequence[Sequence[tuple[int, int]]],
    pids: Sequence[int],
    first_fd: int,
    lazy: Sequence[tuple[Content, int]] = (),
) -> list[Contents]:
    """For a tree: each is brought by the first process that has it. `found`, `used` and `pids` are by
    process; memory is handed over by fds from `first_fd` on, see `exchanged`. `lazy` are those that come
    lazily, with their windows. Raises Refused as `place`.
    """
    owner: dict[Content, int] = {}
    for process, files in enumerate(found):
        for content in files:
            owner.setdefault(content, process)
    numbers = dict(zip(exchanged(found), range(first_fd, first_fd + len(owner)), strict=False))
    lenders = {owner[content] for content in numbers}
    later = dict(lazy)
    divided: list[Contents] = []
    for process, files in enumerate(found):
        mine = [content for content in dict.fromkeys(files) if owner[content] == process]
        taken = [(start, start + content.mapped_bytes) for content, start in lazy]
        own = place((content for content in mine if content not in later), [*used[process], *taken])
        brought = (*own.files, *((content, later[content]) for content in mine if content in later))
        divided.append(
            replace(
                own,
                files=brought,
                lazy=tuple((one, later[one]) for one in dict.fromkeys(files) if one in later),
                lent=tuple((one, numbers[one]) for one, _ in brought if one in numbers),
                borrowed=tuple(
                    (one, numbers[one], pids[owner[one]])
                    for one in dict.fromkeys(files)
                    if one in numbers and owner[one] != process
                ),
                lenders=len(lenders),
            )
        )
    return divided


def exchanged(found: Sequence[Sequence[Content]]) -> list[Content]:
    """The shared memory that several processes map: no file that the launcher could open for them."""
    several = Counter(content for files in found for content in set(files))
    return [content for content, count in several.items() if count > 1 and content.kind == SHARED]


def chunks(files: Iterable[tuple[Content, int]]) -> Iterator[tuple[int, int, bytes]]:
    """(address, mask, packed pages) of each 64 KiB that holds something else than zeros, by address: of those
    with these windows.
    """
    for content, start in sorted(files, key=lambda pair: pair[1]):
        if content.extents:
            fd = os.open(content.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                for offset in _offsets(content):
                    data = os.pread(fd, CHUNK_BYTES, offset)
                    mask, pages = _packed(data)
                    if mask:
                        yield start + offset, mask, pages
            finally:
                os.close(fd)


def _offsets(content: Content) -> Iterator[int]:
    done = 0
    for start, end in content.extents:
        yield from range(max(done, start // CHUNK_BYTES * CHUNK_BYTES), end, CHUNK_BYTES)
        done = -(-end // CHUNK_BYTES) * CHUNK_BYTES


def _packed(data: bytes) -> tuple[int, bytes]:
    data += bytes(-len(data) % PAGE_BYTES)
    mask, kept = 0, []
    for number in range(len(data) // PAGE_BYTES):
        page = data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        if page.count(0) != PAGE_BYTES:
            mask |= 1 << number
            kept.append(page)
    return mask, b"".join(kept)


def segments(state: Contents) -> tuple[Segment, ...]:
    """The windows as the pager must know them."""
    return tuple(
        Segment(start, start + content.mapped_bytes, SegmentFlag.WRITE, _READ_WRITE)
        for content, start in state.eager
        if start
    )


def emit(state: Contents, image: Image) -> None:
    """Makes the files in the launcher, and maps their windows."""
    opener = Opener(image)
    for content, start in state.files:
        hint = hugetlb.hint(content.huge_bytes) if content.huge_bytes else ""
        with image.about(str(content), hint):
            if content.segment is not None:
                sysvshm.emit(content.segment, image)
                sysvshm.emit_window(content.segment, start, content.mapped_bytes, image)
            else:
                _emit_window(content, start, image, opener)
            if content.huge_bytes:
                hugetlb.emit_populate(start, content.extents, image)
    if state.lent:
        _emit_lend(state, image)
    if state.borrowed:
        _emit_borrow(state, image)
    for content, start in state.lazy:
        if (content, start) not in state.files:
            with image.about(str(content)):
                fd = image.own[content] if content.kind == SHARED else image.opened[content]
                flags = mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE
                image.main.syscall(NR.mmap, start, content.mapped_bytes, _READ_WRITE, flags, fd, 0)


def _emit_window(content: Content, start: int, image: Image, opener: Opener) -> None:
    fd: Slot | int = -1
    if content.kind != SHARED:
        fd = image.opened[content] = _emit_file(content, image, opener)
    if not start:
        return
    flags = mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE
    flags |= mmap.MAP_ANONYMOUS if content.kind == SHARED else 0
    if content.huge_bytes:
        # What the program has reserved, its own mappings do.
        flags |= _MAP_NORESERVE
        if content.kind == SHARED:
            flags |= hugetlb.with_size(hugetlb.MAP_HUGETLB, content.huge_bytes)
    image.main.syscall(NR.mmap, start, content.mapped_bytes, _READ_WRITE, flags, fd, 0)
    if content.huge_bytes and content.kind == SHARED:
        # They cannot be made to appear a second time by mremap (VM_DONTEXPAND, vma_to_resize in mm/mremap.c).
        fd = _emit_open_window(content, start, image)
        image.own[content] = image.main.call(NR.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
        image.main.syscall(NR.close, fd)


def _emit_open_window(content: Content, start: int, image: Image) -> Slot:
    """An fd of what is mapped there: a link in map_files leads to its file (proc(5))."""
    path = image.string(f"/proc/self/map_files/{start:x}-{start + content.mapped_bytes:x}")
    return image.main.call(NR.openat, AT_FDCWD, path, os.O_RDWR | os.O_CLOEXEC)


def _emit_lend(state: Contents, image: Image) -> None:
    """Gives the mapping an fd, by which others can map it too."""
    windows = dict(state.files)
    for content, number in state.lent:
        with image.about(str(content), "this needs CAP_CHECKPOINT_RESTORE"):
            fd = _emit_open_window(content, windows[content], image)
            image.main.syscall(NR.dup3, fd, number, os.O_CLOEXEC)
            image.main.syscall(NR.close, fd)
    image.main.add(STAGE.shared)


def _emit_borrow(state: Contents, image: Image) -> None:
    image.main.wait(STAGE.shared, state.lenders)
    for content, number, pid in state.borrowed:
        with image.about(str(content)):
            pidfd = image.main.call(NR.pidfd_open, pid, 0)
            fd = image.main.call(NR.pidfd_getfd, pidfd, number, 0)
            image.main.syscall(NR.close, pidfd)
            image.own[content] = image.main.call(NR.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
            image.main.syscall(NR.close, fd)


def _emit_file(content: Content, image: Image, opener: Opener) -> Slot:
    program = image.shared
    if content.kind == NAMED:
        fd = shmfiles.emit(content.name, image, opener)
    elif content.place is None:
        flags = _MFD_CLOEXEC_ALLOW_SEALING
        if content.huge_bytes:
            flags |= hugetlb.with_size(hugetlb.MFD_HUGETLB, content.huge_bytes)
        fd = opener.open(NR.memfd_create, image.string(content.name), flags)
    else:
        fd = unnamed.emit(content.place, image, opener)
    program.syscall(NR.fchown, fd, *content.owner)
    program.syscall(NR.fchmod, fd, content.mode)
    program.syscall(NR.ftruncate, fd, content.size_bytes)
    for name, value in content.xattrs:
        program.syscall(NR.fsetxattr, fd, image.string(name), image.data(value), len(value), 0)
    if content.kind in (UNLINKED, NAMED) and len(content.extents) <= _EXTENTS_MAX:
        # A full disk is found here, and not by a store into the mapping, which would be a SIGBUS.
        for start, end in content.extents:
            program.syscall(NR.fallocate, fd, 0, start, end - start, expect=ok_or(errno.EOPNOTSUPP))
    return fd


def emit_open(content: Content, flags: int, image: Image) -> Slot:
    """A description of its own, with these flags; the slot is for the restored process, which opens it by
    itself: in another PID namespace the launcher has no /proc/self.

    The description of O_TMPFILE keeps that flag, which no later open can give.
    """
    base = image.opened[content]
    program, number = image.main, image.parking_fd
    if flags & _O_TMPFILE_ONLY and flags & os.O_ACCMODE == os.O_RDWR and (content, 0) not in image.own:
        fd = image.own[content, 0] = program.call(NR.fcntl, base, fcntl.F_DUPFD_CLOEXEC, image.fd_base)
        program.syscall(NR.fcntl, fd, fcntl.F_SETFL, flags)
        return fd
    # A number that a path can name; no fd of the program is in its place yet.
    program.syscall(NR.dup3, base, number, os.O_CLOEXEC)
    path = image.string(f"/proc/self/fd/{number}")
    flags = flags & ~(_O_TMPFILE_ONLY | os.O_DIRECTORY) | os.O_CLOEXEC
    fd = Opener(image, program).open(NR.openat, AT_FDCWD, path, flags)
    program.syscall(NR.close, number)
    return fd


def emit_map(
    content: Content, window: int, vma: tuple[int, int, int, int], flags: int, may_write: bool, image: Image
) -> None:
    """Maps a part of it: `vma` is (address, bytes, protection, offset), `flags` those of mmap(2).

    Without `may_write` the mapping can never become writable, as is the case of those of a sealed memfd.
    """
    addr, length, prot, offset = vma
    if content.segment is not None:
        sysvshm.emit_attach(content.segment, addr, prot, may_write, image)
        image.main.syscall(NR.mprotect, addr, length, prot)
        return
    if content in image.own:
        image.main.syscall(NR.mmap, addr, length, prot, flags, image.own[content], offset)
        return
    if content.kind == SHARED:
        # With an old length of 0 a shared mapping stays where it is and appears a second time (mremap(2)).
        image.main.syscall(NR.mremap, window + offset, 0, length, _MREMAP_MAYMOVE_FIXED, addr)
        image.main.syscall(NR.mprotect, addr, length, prot)
        return
    key = (content, "rw" if may_write else "r")
    if key not in image.own:
        access = os.O_RDWR if may_write else os.O_RDONLY
        image.own[key] = emit_open(content, access, image)
    image.main.syscall(NR.mmap, addr, length, prot, flags, image.own[key], offset)


def emit_late(state: Contents, image: Image) -> None:
    """Waits for the pages, takes the windows away; then times, which writing changes, and seals."""
    if not state.files:
        return
    program = image.main
    program.wait(CTL.eager_done)
    for content, start in state.files:
        with image.about(str(content)):
            if start and (content, start) not in state.lazy:
                program.syscall(NR.munmap, start, content.mapped_bytes)
            if content.segment is not None:
                sysvshm.emit_late(content.segment, image)
            if content.kind in (SHARED, SYSV):
                continue
            times = b"".join(
                part.to_bytes(8, "little", signed=True)
                for time_ns in content.times_ns
                for part in divmod(time_ns, _NANO)
            )
            fd = image.opened[content]
            program.syscall(NR.utimensat, fd, 0, image.data(times), 0)
            if content.seals:
                program.syscall(NR.fcntl, fd, _F_ADD_SEALS, content.seals)
