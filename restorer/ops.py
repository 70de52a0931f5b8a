# SPDX-License-Identifier: Apache-2.0
"""What programs are made of before their blob is laid out: values, ops, and the facts of the header."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from restorer import wire
from restorer.record import dataclass
from restorer.wire import ExpectKind, OpFlag, OpKind


class Area(IntEnum):
    """The parts of the blob that Data may point into."""

    DATA = 0
    STRINGS = 1
    RESERVE = 2


@dataclass(frozen=True, slots=True)
class Data:
    """An address in the image; `data + n` lies n bytes further."""

    area: Area
    offset: int

    def __add__(self, n: int) -> Data:
        return Data(self.area, self.offset + n)


@dataclass(frozen=True, slots=True)
class Slot:
    """The value of a slot when the op runs; `slot + n` is that value plus n."""

    index: int
    offset: int = 0

    def __add__(self, n: int) -> Slot:
        return Slot(self.index, self.offset + n)


@dataclass(frozen=True, slots=True)
class Ctl:
    """An address in struct wr_ctl."""

    offset: int


@dataclass(frozen=True, slots=True)
class Tree:
    """An address in struct wr_tree, which all processes of an image share."""

    offset: int


Arg: TypeAlias = int | Data | Slot | Ctl | Tree


class STAGE:
    """Where processes wait for each other (wr_tree.stages): all shared memory is there, all IDs are taken,
    all groups joined and pagers there, fds lent that only one could open, fds borrowed, all files open,
    hardly anything left to do, TCP connections free to speak.
    """

    shared = Tree(0)
    born = Tree(4)
    grouped = Tree(8)
    lent = Tree(12)
    borrowed = Tree(16)
    opened = Tree(20)
    settled = Tree(24)
    unblocked = Tree(28)


class CTL:
    """The members of struct wr_ctl that programs use."""

    go = Ctl(0)
    ready = Ctl(4)
    eager_done = Ctl(8)
    left = Ctl(12)
    index_ready = Ctl(16)
    fill = Ctl(20)
    loaded = Ctl(24)
    ahead = Ctl(28)
    suspended = Ctl(208)
    storm = Ctl(212)


class SLOT:
    """The slots that the launcher fills (enum wr_slot)."""

    region = Slot(0)
    region_bytes = Slot(1)
    region_end = Slot(2)
    tail_bytes = Slot(3)
    vvar = Slot(4)
    vvar_bytes = Slot(5)
    vvar_vclock = Slot(6)
    vvar_vclock_bytes = Slot(7)
    vdso = Slot(8)
    vdso_bytes = Slot(9)
    scratch = Slot(10)
    uffd_nr = Slot(11)
    uffd_arg0 = Slot(12)
    uffd_arg1 = Slot(13)
    uffd_arg2 = Slot(14)
    uffd_features = Slot(15)
    channel = Slot(16)
    data_fd = Slot(17)
    stdin = Slot(18)
    stdout = Slot(19)
    stderr = Slot(20)
    pidfd = Slot(21)
    pager_stack = Slot(22)
    pager_stack_bytes = Slot(23)
    pager_tls = Slot(24)
    ctl = Slot(25)
    new_ipc = Slot(26)


@dataclass(frozen=True, slots=True)
class Expect:
    """What the result of an op must be."""

    kind: ExpectKind
    value: int = 0


OK = Expect(ExpectKind.OK)
ANY = Expect(ExpectKind.ANY)


def exactly(value: int) -> Expect:
    """The result must be `value`."""
    return Expect(ExpectKind.EXACT, value)


def ok_or(errno_: int) -> Expect:
    """The result must be no error, or -errno_ (`errno_` positive, as in `errno.ENOENT`)."""
    return Expect(ExpectKind.OK_OR, -errno_)


@dataclass(frozen=True, slots=True)
class Op:
    """One op before the layout of the blob is known."""

    kind: OpKind
    args: tuple[Arg, ...]
    expect: Expect = OK
    flags: OpFlag = OpFlag.NONE
    result: int = wire.NO_SLOT
    nr: int = 0
    about: int = wire.NO_OBJECT


@dataclass(frozen=True, slots=True)
class Segment:
    """struct wr_segment: addresses, `end` exclusive. `image` is `start` where it is not given."""

    start: int
    end: int
    flags: int
    prot: int
    image: int = 0


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """struct wr_process, less what Image knows; `bases` are (start, bytes) of free holes, best first."""

    pid: int
    map_id: int
    records_count: int
    map_check: int
    vdso_syscall: int
    flags: int
    segments: tuple[Segment, ...]
    bases: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What compile.py decides of struct wr_header; `pids` are all process IDs that a restore chooses, the
    first `leaders` of them those of leaders of sessions; `terminal` is a struct wr_terminal, None for none;
    `clocks` are monotonic_ns, boottime_ns and own_time.
    """

    image_id: int
    xfeatures: int
    xstate_bytes: int
    processes: tuple[ProcessEntry, ...]
    pids: tuple[int, ...]
    manifest: bytes
    terminal: Data | None = None
    clocks: tuple[int, int, int] = (0, 0, 0)
    leaders: int = 0
