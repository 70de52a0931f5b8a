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
from dataclasses import replace

from restorer import blob, wire
from restorer.errors import Refused
from restorer.ops import (
    ANY,
    CTL,
    OK,
    SLOT,
    STAGE,
    Area,
    Arg,
    Ctl,
    Data,
    Expect,
    Header,
    Op,
    ProcessEntry,
    Segment,
    Slot,
    Tree,
    exactly,
    ok_or,
)
from restorer.wire import OpFlag, OpKind

__all__ = [
    "ANY",
    "CTL",
    "OK",
    "SLOT",
    "STACK_BYTES",
    "STAGE",
    "Arg",
    "Ctl",
    "Data",
    "Expect",
    "Header",
    "Image",
    "ProcessEntry",
    "Program",
    "Segment",
    "Slot",
    "Tree",
    "exactly",
    "ok_or",
]

STACK_BYTES = 16384


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

    def load(self, addr: Arg, size: int = 8, result: Slot | None = None) -> Slot:
        """`result`, or a fresh slot, with the `size` bytes at `addr`, zero-extended."""
        result = result or self.image.slot()
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

    def fork(self, clone_args: Arg, size: int, program: Program, process: int) -> Slot:
        """clone3 without CLONE_VM; the child runs `program` in the region of `process`. The slot takes its
        PID.
        """
        result = self.image.slot()
        self._append(OpKind.FORK, (clone_args, size, program.index, process), result=result)
        return result

    @contextmanager
    def unless_eq(self, a: Arg, b: Arg) -> Iterator[None]:
        """Ops appended inside are left out when a == b (64 bits)."""
        at = len(self.ops)
        self._append(OpKind.SKIP_EQ, (a, b, 0))
        yield
        self.ops[at] = replace(self.ops[at], args=(a, b, len(self.ops) - at - 1))

    def exit(self, code: int) -> None:
        """exit_group; the last op of a task that is gone before the tree runs."""
        self._append(OpKind.EXIT, (code,))

    def enter(self, frame: Arg) -> None:
        """rt_sigreturn into the struct ucontext at `frame`; the last op of a thread."""
        self._append(OpKind.ENTER, (frame,))

    def become_pager(self, process: int = 0) -> None:
        """Turns into the pager of that process; the last op of a pager program."""
        self._append(OpKind.PAGER, (process,))

    def decode_ahead(self) -> None:
        """Turns into the pager's thread that decodes ahead; the last op of its program."""
        self._append(OpKind.AHEAD, ())

    def install_in_storms(self) -> None:
        """Turns into the pager's thread that installs beside it; the last op of its program."""
        self._append(OpKind.STORM, ())


class Builder:
    """What all processes of an image share: programs and their data, slots, and what failures are about."""

    def __init__(self, fd_base: int) -> None:
        self.fd_base = max(fd_base, wire.FD_BASE_MIN)
        self.current_object = wire.NO_OBJECT
        self.opened: dict[Hashable, Slot] = {}
        self.images: list[Image] = []
        self._data = bytearray()
        self._strings = bytearray(b"\0")
        self._string_at: dict[bytes, int] = {b"": 0}
        self._reserved = 0
        self._slots = wire.SLOT_FIRST + 1
        self._objects: list[tuple[Data, Data]] = []
        self._object_at: dict[tuple[Data, Data], int] = {}
        self._ports: list[tuple[Data, int]] = []
        self._programs: list[Program] = []

    def program(self, image: Image, name: str, *, stack: bool) -> Program:
        """A new program, with or without a stack of its own."""
        top = self.reserve(STACK_BYTES, align=16) + STACK_BYTES if stack else None
        program = Program(image, len(self._programs), name, top)
        self._programs.append(program)
        return program

    def data(self, content: bytes, align: int) -> Data:
        """Image.data."""
        self._data += bytes(-len(self._data) % align)
        at = len(self._data)
        self._data += content
        return Data(Area.DATA, at)

    def string(self, text: str | bytes) -> Data:
        """Image.string."""
        content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        at = self._string_at.get(content)
        if at is None:
            at = self._string_at[content] = len(self._strings)
            self._strings += content + b"\0"
        return Data(Area.STRINGS, at)

    def reserve(self, n: int, align: int) -> Data:
        """Image.reserve."""
        self._reserved += -self._reserved % align
        at = self._reserved
        self._reserved += n
        return Data(Area.RESERVE, at)

    def slot(self) -> Slot:
        """Image.slot."""
        if self._slots == wire.SLOTS:
            raise Refused(
                f"the processes have more files open and mapped than an image holds ({wire.SLOTS} slots)",
                "close some of them first",
            )
        self._slots += 1
        return Slot(self._slots - 1)

    def object(self, text: str, hint: str) -> int:
        """The index of what failures are about, NO_OBJECT when there are too many."""
        key = (self.string(text), self.string(hint))
        index = self._object_at.get(key)
        if index is None:
            if len(self._objects) == wire.NO_OBJECT:
                return wire.NO_OBJECT
            index = self._object_at[key] = len(self._objects)
            self._objects.append(key)
        return index

    def port(self, value: Data, protocol: int) -> None:
        """Image.port."""
        self._ports.append((value, protocol))

    def seal(self, shared: Program, undo: Program, header: Header) -> bytes:
        """Image.seal."""
        programs = [
            blob.ProgramPart(self.string(program.name), program.stack, program.ops)
            for program in self._programs
        ]
        processes = [
            blob.ProcessPart(image.main.index, image.pager.index, len(image.threads), image.channel.index)
            for image in self.images
        ]
        parts = blob.Parts(
            programs=programs,
            objects=self._objects,
            ports=self._ports,
            data=self._data,
            strings=self._strings,
            reserved_bytes=self._reserved,
            slots=self._slots,
            fd_base=self.fd_base,
            shared=shared.index,
            undo=undo.index,
            processes=processes,
        )
        return blob.seal(parts, header)


class Image:
    """The programs of one process and, shared with the other processes of its tree, their data, until
    `seal` turns them all into one blob.

    `shared` is run once, by the launcher, and `undo` by it when the restore has failed; `main`, `threads`,
    `pager`, `decoder` and `installer` are this process's own. `spare` is a slot for values that the very next
    ops of `shared` or `main` consume. `opened` is for state modules that open one thing once in `shared`,
    whoever asks first: what it is -> the slot of its fd; `own` is the same for what `main` opens. `channel`
    is the slot of the fd of this process's channel. `parking_fd` is a number below `fd_base` for a moment's
    use by `main`, another for each of those that share a table of descriptors: `rank` counts these.
    """

    def __init__(
        self,
        threads: int = 1,
        fd_base: int = wire.FD_BASE_MIN,
        name: str = "main",
        root: Image | None = None,
        rank: int = 0,
    ) -> None:
        self.builder: Builder = root.builder if root else Builder(fd_base)
        self.index = len(self.builder.images)
        self.builder.images.append(self)
        self.fd_base = self.builder.fd_base
        self.parking_fd = self.fd_base - 1 - rank
        self.own: dict[Hashable, Slot] = {}
        self.spare = Slot(wire.SLOT_FIRST)
        self.channel = self.slot()
        self.shared: Program = root.shared if root else self.builder.program(self, "shared", stack=False)
        self.main = self.builder.program(self, name, stack=True)
        threads_of = f" of {name}" if root else ""
        self.threads = [
            self.main,
            *(self.builder.program(self, f"thread {i}{threads_of}", stack=True) for i in range(1, threads)),
        ]
        self.pager = self.builder.program(self, f"pager{threads_of}", stack=False)
        self.decoder = self.builder.program(self, f"decoder{threads_of}", stack=False)
        self.installer = self.builder.program(self, f"installer{threads_of}", stack=False)
        self.undo: Program = root.undo if root else self.builder.program(self, "undo", stack=False)

    @property
    def processes(self) -> int:
        """How many processes the image has by now."""
        return len(self.builder.images)

    @property
    def opened(self) -> dict[Hashable, Slot]:
        """What `shared` has opened."""
        return self.builder.opened

    @property
    def current_object(self) -> int:
        """What ops that are appended now are about."""
        return self.builder.current_object

    def helper(self, name: str) -> Program:
        """One more program for a task that this process makes, with a stack."""
        return self.builder.program(self, name, stack=True)

    def data(self, content: bytes, align: int = 8) -> Data:
        """Puts `content` into the blob, writable at restore; each process has a copy of its own."""
        return self.builder.data(content, align)

    def string(self, text: str | bytes) -> Data:
        """A NUL-terminated string, surrogate-escaped bytes kept; equal ones share a place."""
        return self.builder.string(text)

    def reserve(self, n: int, align: int = 16) -> Data:
        """n zero bytes which take no room in the store."""
        return self.builder.reserve(n, align)

    def slot(self) -> Slot:
        """A fresh slot. What `shared` leaves there all processes see; later each sees its own. Raises
        Refused when the region's slots are used up.
        """
        return self.builder.slot()

    @contextmanager
    def about(self, text: str, hint: str = "") -> Iterator[None]:
        """Ops appended inside name this object, and this way out, when they fail."""
        builder = self.builder
        previous = builder.current_object
        builder.current_object = builder.object(text, hint)
        try:
            yield
        finally:
            builder.current_object = previous

    def port(self, value: Data, protocol: int) -> None:
        """Marks a big-endian 16-bit port in the data, which --publish may replace."""
        self.builder.port(value, protocol)

    def seal(self, header: Header) -> bytes:
        """The blob of all processes, see blob.seal; `header.processes` are in the order in which their
        Images were made.
        """
        return self.builder.seal(self.shared, self.undo, header)
