# SPDX-License-Identifier: Apache-2.0
"""Builds images: programs of ops, their data, and the blob that holds them.

    image = Image(threads=1)
    path = image.string("/srv/app.log")
    with image.about("fd 5: /srv/app.log", hint="put the file back, or use --force-files"):
        fd = image.shared.call(NR.openat, AT_FDCWD, path, os.O_RDWR)
        image.main.syscall(NR.dup3, fd, 5, 0)
    blob = image.seal(...)

An argument of an op is an int, a Data (an address in the image), a Slot (a value known at restore) or a Ctl
(an address in wr_ctl). No absolute address of the region is ever written: the launcher chooses it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from restorer import wire
from restorer.errors import Refused
from restorer.wire import ArgKind, ExpectKind, OpFlag, OpKind

STACK_BYTES = 16384
_MASK64 = (1 << 64) - 1


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


Arg: TypeAlias = int | Data | Slot | Ctl


class CTL:
    """The members of struct wr_ctl that programs use."""

    go = Ctl(0)
    ready = Ctl(4)
    eager_done = Ctl(8)
    left = Ctl(12)
    index_ready = Ctl(16)
    fill = Ctl(20)
    loaded = Ctl(24)


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


class Program:
    """A straight line of ops for one task. Made by Image, never alone."""

    def __init__(self, image: Image, index: int, name: str, stack: Data | None) -> None:
        self.image = image
        self.index = index
        self.name = name
        self.stack = stack
        self.ops: list[Op] = []

    def _append(
        self,
        kind: OpKind,
        args: tuple[Arg, ...],
        *,
        expect: Expect = OK,
        flags: OpFlag = OpFlag.NONE,
        result: Slot | None = None,
        nr: int = 0,
    ) -> None:
        index = wire.NO_SLOT if result is None else result.index
        self.ops.append(Op(kind, args, expect, flags, index, nr, self.image.current_object))

    def syscall(
        self,
        nr: int | Slot,
        *args: Arg,
        result: Slot | None = None,
        expect: Expect = OK,
        file_check: bool = False,
    ) -> None:
        """Appends nr(*args). Missing arguments are 0; `result` takes what it returns.

        A Slot as `nr` is a syscall number which the launcher fills in. With `file_check` the op is left out
        under --force-files.
        """
        flags = OpFlag.FILE_CHECK if file_check else OpFlag.NONE
        if isinstance(nr, Slot):
            flags |= OpFlag.NR_FROM_SLOT
            nr = nr.index
        self._append(OpKind.SYSCALL, args, expect=expect, flags=flags, result=result, nr=nr)

    def call(self, nr: int | Slot, *args: Arg, expect: Expect = OK) -> Slot:
        """Like `syscall`; returns a fresh slot that takes the result."""
        result = self.image.slot()
        self.syscall(nr, *args, result=result, expect=expect)
        return result

    def store(self, addr: Arg, value: Arg, size: int = 8) -> None:
        """Writes `value`, `size` bytes wide (1, 2, 4, 8), at `addr`."""
        self._append(OpKind.STORE, (addr, value, size))

    def load(self, addr: Arg, size: int = 8) -> Slot:
        """A fresh slot with the `size` bytes at `addr`, zero-extended."""
        result = self.image.slot()
        self._append(OpKind.LOAD, (addr, size), result=result)
        return result

    def check_eq(self, a: Arg, b: Arg, *, file_check: bool = False) -> None:
        """Fails unless a == b (64 bits)."""
        self._check(OpKind.CHECK_EQ, (a, b), file_check)

    def check_ge(self, a: Arg, b: Arg, *, file_check: bool = False) -> None:
        """Fails unless a >= b, unsigned."""
        self._check(OpKind.CHECK_GE, (a, b), file_check)

    def check_mem(self, a: Arg, b: Arg, size: Arg, *, file_check: bool = False) -> None:
        """Fails unless the `size` bytes at `a` and at `b` are the same."""
        self._check(OpKind.CHECK_MEM, (a, b, size), file_check)

    def _check(self, kind: OpKind, args: tuple[Arg, ...], file_check: bool) -> None:
        self._append(kind, args, flags=OpFlag.FILE_CHECK if file_check else OpFlag.NONE)

    def add(self, addr: Arg, n: int = 1) -> None:
        """Adds n to the 32-bit word at `addr` and wakes all who wait for it."""
        self._append(OpKind.ADD, (addr, n))

    def wait(self, addr: Arg, n: int = 1) -> None:
        """Waits until the 32-bit word at `addr` is at least n."""
        self._append(OpKind.WAIT, (addr, n))

    def spawn(self, clone_args: Arg, size: int, program: Program) -> Slot:
        """clone3; the child runs `program`. The slot takes the new tid."""
        result = self.image.slot()
        self._append(OpKind.SPAWN, (clone_args, size, program.index), result=result)
        return result

    def enter(self, frame: Arg) -> None:
        """rt_sigreturn into the struct ucontext at `frame`; the last op of a thread."""
        self._append(OpKind.ENTER, (frame,))

    def become_pager(self, process: int = 0) -> None:
        """Turns into the pager of that process; the last op of a pager program."""
        self._append(OpKind.PAGER, (process,))

    def exit(self, code: int) -> None:
        """exit_group(code); no op after it runs."""
        self._append(OpKind.EXIT, (code,))


@dataclass(frozen=True, slots=True)
class Segment:
    """struct wr_segment: addresses, `end` exclusive."""

    start: int
    end: int
    flags: int
    prot: int


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """struct wr_process, less what Image knows."""

    pid: int
    map_id: int
    records_count: int
    map_check: int
    vdso_syscall: int
    flags: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What compile.py decides of struct wr_header; `bases` are (start, bytes) of free holes, best first."""

    image_id: int
    bases: tuple[tuple[int, int], ...]
    xfeatures: int
    xstate_bytes: int
    process: ProcessEntry
    manifest: bytes


@dataclass
class _Layout:
    """File offsets of the parts of a blob."""

    ops: int = 0
    programs: int = 0
    objects: int = 0
    processes: int = 0
    segments: int = 0
    ports: int = 0
    data: int = 0
    strings: int = 0
    manifest: int = 0
    end: int = 0
    reserve: int = 0
    bases: dict[Area, int] = field(default_factory=dict)


class Image:
    """The programs of one process tree and their data, until `seal` turns them into one blob.

    `opened` is for state modules that open one thing once, whoever asks first: what it is -> the slot of
    its fd.
    """

    def __init__(self, threads: int = 1, fd_base: int = wire.FD_BASE_MIN, name: str = "main") -> None:
        self.fd_base = max(fd_base, wire.FD_BASE_MIN)
        self.current_object = wire.NO_OBJECT
        self.opened: dict[Hashable, Slot] = {}
        self._data = bytearray()
        self._strings = bytearray(b"\0")
        self._string_at: dict[bytes, int] = {b"": 0}
        self._reserved = 0
        self._slots = wire.SLOT_FIRST
        self._objects: list[tuple[Data, Data]] = []
        self._object_at: dict[tuple[Data, Data], int] = {}
        self._ports: list[tuple[Data, int]] = []
        self._programs: list[Program] = []
        self.shared = self._program("shared", stack=False)
        self.main = self._program(name, stack=True)
        self.threads = [self.main, *(self._program(f"thread {i}", stack=True) for i in range(1, threads))]
        self.pager = self._program("pager", stack=False)

    def _program(self, name: str, *, stack: bool) -> Program:
        top = self.reserve(STACK_BYTES, align=16) + STACK_BYTES if stack else None
        program = Program(self, len(self._programs), name, top)
        self._programs.append(program)
        return program

    def data(self, content: bytes, align: int = 8) -> Data:
        """Puts `content` into the blob, writable at restore."""
        self._data += bytes(-len(self._data) % align)
        at = len(self._data)
        self._data += content
        return Data(Area.DATA, at)

    def string(self, text: str | bytes) -> Data:
        """A NUL-terminated string, surrogate-escaped bytes kept; equal ones share a place."""
        content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        at = self._string_at.get(content)
        if at is None:
            at = self._string_at[content] = len(self._strings)
            self._strings += content + b"\0"
        return Data(Area.STRINGS, at)

    def reserve(self, n: int, align: int = 16) -> Data:
        """n zero bytes which take no room in the store."""
        self._reserved += -self._reserved % align
        at = self._reserved
        self._reserved += n
        return Data(Area.RESERVE, at)

    def slot(self) -> Slot:
        """A fresh slot. Raises Refused when the region's slots are used up."""
        if self._slots == wire.SLOTS:
            raise Refused(
                f"the process has more open files and mapped files than an image holds ({wire.SLOTS} slots)",
                "close some of them first",
            )
        self._slots += 1
        return Slot(self._slots - 1)

    @contextmanager
    def about(self, text: str, hint: str = "") -> Iterator[None]:
        """Ops appended inside name this object, and this way out, when they fail."""
        previous = self.current_object
        self.current_object = self._object(text, hint)
        try:
            yield
        finally:
            self.current_object = previous

    def _object(self, text: str, hint: str) -> int:
        key = (self.string(text), self.string(hint))
        index = self._object_at.get(key)
        if index is None:
            if len(self._objects) == wire.NO_OBJECT:
                return wire.NO_OBJECT
            index = self._object_at[key] = len(self._objects)
            self._objects.append(key)
        return index

    def port(self, value: Data, protocol: int) -> None:
        """Marks a big-endian 16-bit port in the data, which --publish may replace."""
        self._ports.append((value, protocol))

    def seal(self, header: Header) -> bytes:
        """The blob: header, programs, ops, objects, process, segments, ports, data, strings, manifest."""
        names = [self.string(program.name) for program in self._programs]
        layout = self._lay_out(header)
        blob = bytearray(layout.end)
        blob[: wire.HEADER.size] = self._pack_header(header, layout)
        self._pack_programs(blob, layout, names)
        for i, (text, hint) in enumerate(self._objects):
            at = layout.objects + i * wire.OBJECT.size
            wire.OBJECT.pack_into(blob, at, _resolve(layout, text), _resolve(layout, hint))
        self._pack_process(blob, layout, header.process)
        for i, (value, protocol) in enumerate(self._ports):
            wire.PORT.pack_into(blob, layout.ports + i * wire.PORT.size, _resolve(layout, value), protocol)
        blob[layout.data : layout.data + len(self._data)] = self._data
        blob[layout.strings : layout.strings + len(self._strings)] = self._strings
        blob[layout.manifest : layout.manifest + len(header.manifest)] = header.manifest
        return bytes(blob)

    def _lay_out(self, header: Header) -> _Layout:
        layout = _Layout(programs=wire.HEADER.size)
        layout.ops = _align(layout.programs + len(self._programs) * wire.PROGRAM.size, 8)
        layout.objects = layout.ops + sum(len(p.ops) for p in self._programs) * wire.OP.size
        layout.processes = _align(layout.objects + len(self._objects) * wire.OBJECT.size, 8)
        layout.segments = layout.processes + wire.PROCESS.size
        layout.ports = layout.segments + len(header.process.segments) * wire.SEGMENT.size
        layout.data = _align(layout.ports + len(self._ports) * wire.PORT.size, 64)
        layout.strings = layout.data + len(self._data)
        layout.manifest = layout.strings + len(self._strings)
        layout.end = layout.manifest + len(header.manifest)
        layout.reserve = _align(layout.end, wire.PAGE_BYTES)
        layout.bases = {Area.DATA: layout.data, Area.STRINGS: layout.strings, Area.RESERVE: layout.reserve}
        return layout

    def _pack_header(self, header: Header, layout: _Layout) -> bytes:
        holes = [*header.bases, *((0, 0),) * wire.BASES][: wire.BASES]
        return wire.HEADER.pack(
            wire.MAGIC,
            wire.VERSION,
            wire.HEADER.size,
            header.image_id,
            layout.end,
            layout.reserve + _align(self._reserved, wire.PAGE_BYTES),
            *(start for start, _ in holes),
            *(length for _, length in holes),
            header.xfeatures,
            header.xstate_bytes,
            self.fd_base,
            *(layout.programs, len(self._programs)),
            *(layout.objects, len(self._objects)),
            *(layout.processes, 1),
            *(layout.ports, len(self._ports)),
            self.shared.index,
            self._slots,
            *(layout.manifest, len(header.manifest)),
        )

    def _pack_programs(self, blob: bytearray, layout: _Layout, names: list[Data]) -> None:
        at = layout.ops
        for program, name in zip(self._programs, names, strict=True):
            stack = 0 if program.stack is None else _resolve(layout, program.stack)
            record = (at, len(program.ops), _resolve(layout, name), stack)
            wire.PROGRAM.pack_into(blob, layout.programs + program.index * wire.PROGRAM.size, *record)
            for op in program.ops:
                wire.OP.pack_into(blob, at, *_encode(layout, op))
                at += wire.OP.size

    def _pack_process(self, blob: bytearray, layout: _Layout, process: ProcessEntry) -> None:
        wire.PROCESS.pack_into(
            blob,
            layout.processes,
            process.pid,
            self.main.index,
            self.pager.index,
            len(self.threads),
            process.map_id,
            process.records_count,
            process.map_check,
            process.vdso_syscall,
            process.flags,
            len(process.segments),
            layout.segments,
            0,
        )
        for i, segment in enumerate(process.segments):
            record = (segment.start, segment.end, segment.flags, segment.prot)
            wire.SEGMENT.pack_into(blob, layout.segments + i * wire.SEGMENT.size, *record)


def _align(n: int, to: int) -> int:
    return -(-n // to) * to


def _resolve(layout: _Layout, data: Data) -> int:
    return layout.bases[data.area] + data.offset


def _encode(layout: _Layout, op: Op) -> list[int]:
    fields: list[int] = [op.kind, op.expect.kind, op.flags, op.result, op.about, op.nr, 0, op.expect.value]
    for arg in op.args:
        if isinstance(arg, Slot):
            fields += (arg.offset & _MASK64, ArgKind.SLOT, arg.index, 0)
        elif isinstance(arg, Data):
            fields += (_resolve(layout, arg), ArgKind.DATA, 0, 0)
        elif isinstance(arg, Ctl):
            fields += (arg.offset, ArgKind.CTL, 0, 0)
        else:
            fields += (arg & _MASK64, ArgKind.IMM, 0, 0)
    return fields + [0] * 4 * (wire.ARGS - len(op.args))
