# SPDX-License-Identifier: Apache-2.0
"""Decodes the programs of an image and words them as strace would.

    openat(AT_FDCWD, "/srv/app.log", 0x402, 0) = $35   # fd 5: /srv/app.log

`$35` is slot 35, `image+0x1230` an address in the image's data, `ctl.go` a word of wr_ctl.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import TypeVar

from restorer import wire
from restorer.errors import StoreDamaged
from restorer.program import CTL, SLOT, STAGE, Ctl, Slot, Tree
from restorer.record import dataclass
from restorer.syscalls import NAMES, NR
from restorer.wire import ArgKind, ExpectKind, OpFlag, OpKind

_AT_FDCWD = (1 << 64) - 100
_SMALL = 4096
_STRING_MAX_BYTES = 256

# How many arguments a syscall has, and which of them are paths or other strings: for those that programs use.
_ARGUMENTS: dict[int, tuple[int, tuple[int, ...]]] = {
    NR.accept4: (4, ()),
    NR.arch_prctl: (2, ()),
    NR.bind: (3, ()),
    NR.brk: (1, ()),
    NR.capset: (2, ()),
    NR.chdir: (1, (0,)),
    NR.chmod: (2, (0,)),
    NR.chown: (3, (0,)),
    NR.chroot: (1, (0,)),
    NR.close: (1, ()),
    NR.close_range: (3, ()),
    NR.connect: (3, ()),
    NR.dup: (1, ()),
    NR.dup2: (2, ()),
    NR.dup3: (3, ()),
    NR.epoll_create1: (1, ()),
    NR.epoll_ctl: (4, ()),
    NR.eventfd2: (2, ()),
    NR.fallocate: (4, ()),
    NR.fchdir: (1, ()),
    NR.fchmod: (2, ()),
    NR.fchown: (3, ()),
    NR.fcntl: (3, ()),
    NR.flock: (2, ()),
    NR.fsetxattr: (5, (1,)),
    NR.fstat: (2, ()),
    NR.ftruncate: (2, ()),
    NR.getegid: (0, ()),
    NR.geteuid: (0, ()),
    NR.getpid: (0, ()),
    NR.gettid: (0, ()),
    NR.ioctl: (3, ()),
    NR.ioprio_set: (3, ()),
    NR.listen: (2, ()),
    NR.lseek: (3, ()),
    NR.madvise: (3, ()),
    NR.memfd_create: (2, (0,)),
    NR.mkdirat: (3, (1,)),
    NR.mlock2: (3, ()),
    NR.mlockall: (1, ()),
    NR.mprotect: (3, ()),
    NR.mremap: (5, ()),
    NR.mseal: (3, ()),
    NR.msgctl: (3, ()),
    NR.msgget: (2, ()),
    NR.msgsnd: (4, ()),
    NR.munmap: (2, ()),
    NR.newfstatat: (4, (1,)),
    NR.openat: (4, (1,)),
    NR.personality: (1, ()),
    NR.pidfd_open: (2, ()),
    NR.pipe2: (2, ()),
    NR.prctl: (5, ()),
    NR.pread64: (4, ()),
    NR.prlimit64: (4, ()),
    NR.read: (3, ()),
    NR.rseq: (4, ()),
    NR.rt_sigaction: (4, ()),
    NR.rt_sigqueueinfo: (3, ()),
    NR.rt_tgsigqueueinfo: (4, ()),
    NR.sched_setaffinity: (3, ()),
    NR.sched_setattr: (3, ()),
    NR.sched_setscheduler: (3, ()),
    NR.semctl: (4, ()),
    NR.semget: (3, ()),
    NR.sendmsg: (3, ()),
    NR.set_robust_list: (2, ()),
    NR.set_tid_address: (1, ()),
    NR.setfsgid: (1, ()),
    NR.setfsuid: (1, ()),
    NR.setgroups: (2, ()),
    NR.setitimer: (3, ()),
    NR.setpgid: (2, ()),
    NR.setpriority: (3, ()),
    NR.setresgid: (3, ()),
    NR.setresuid: (3, ()),
    NR.setsid: (0, ()),
    NR.setsockopt: (5, ()),
    NR.shmat: (3, ()),
    NR.shmctl: (3, ()),
    NR.shmget: (3, ()),
    NR.sigaltstack: (2, ()),
    NR.signalfd4: (4, ()),
    NR.socket: (3, ()),
    NR.socketpair: (4, ()),
    NR.statx: (5, (1,)),
    NR.timer_create: (3, ()),
    NR.timer_delete: (1, ()),
    NR.timer_settime: (4, ()),
    NR.timerfd_create: (2, ()),
    NR.timerfd_settime: (4, ()),
    NR.umask: (1, ()),
    NR.unlink: (1, (0,)),
    NR.unlinkat: (3, (1,)),
    NR.unshare: (1, ()),
    NR.utimensat: (4, ()),
    NR.write: (3, ()),
}

_CTL_NAMES = {value.offset: name for name, value in vars(CTL).items() if isinstance(value, Ctl)}
_STAGE_NAMES = {value.offset: name for name, value in vars(STAGE).items() if isinstance(value, Tree)}
_SLOT_NAMES = {value.index: name for name, value in vars(SLOT).items() if isinstance(value, Slot)}
_OP_ARGUMENTS = {
    OpKind.STORE: ("store", 3),
    OpKind.LOAD: ("load", 2),
    OpKind.CHECK_EQ: ("check_eq", 2),
    OpKind.CHECK_GE: ("check_ge", 2),
    OpKind.CHECK_MEM: ("check_mem", 3),
    OpKind.ADD: ("add", 2),
    OpKind.WAIT: ("wait", 2),
    OpKind.SPAWN: ("spawn", 3),
    OpKind.ENTER: ("enter", 1),
    OpKind.PAGER: ("become_pager", 1),
    OpKind.EXIT: ("exit_group", 1),
    OpKind.AHEAD: ("decode_ahead", 0),
    OpKind.FORK: ("fork", 4),
    OpKind.SKIP_EQ: ("skip_if_eq", 3),
    OpKind.STORM: ("install_in_storms", 0),
}
_E = TypeVar("_E", bound=IntEnum)


@dataclass(frozen=True)
class Op:
    """One decoded op; `args` are (kind, slot, value)."""

    kind: OpKind
    expect: ExpectKind
    flags: OpFlag
    result: int
    nr: int
    expected: int
    args: tuple[tuple[ArgKind, int, int], ...]
    about: str
    hint: str


@dataclass(frozen=True)
class DecodedProgram:
    """A program by its index in the image."""

    index: int
    name: str
    ops: tuple[Op, ...]


class Decoder:
    """Reads a blob whose every offset may be wrong. Raises StoreDamaged for one that leads outside."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        if blob[: len(wire.MAGIC)] != wire.MAGIC:
            raise _damaged("it does not begin as an image does")
        if len(blob) < wire.HEADER.size:
            raise _damaged("its header is cut off")
        header = wire.read_header(blob)
        if header.version != wire.VERSION:
            raise _damaged(f"it is of version {header.version}, not {wire.VERSION}")
        self._programs, self._programs_count = header.programs_offset, header.programs_count
        self._objects, self._objects_count = header.objects_offset, header.objects_count

    def _unpack(self, record: Struct, offset: int) -> tuple[int, ...]:
        if offset + record.size > len(self.blob):
            raise _damaged(f"offset {offset:#x} lies outside")
        return record.unpack_from(self.blob, offset)

    def string(self, offset: int) -> str:
        """The NUL-terminated string at `offset`."""
        end = self.blob.find(b"\0", offset)
        if offset >= len(self.blob) or end < 0:
            raise _damaged(f"string {offset:#x} lies outside")
        return self.blob[offset:end].decode("utf-8", "backslashreplace")

    def programs(self) -> Iterator[DecodedProgram]:
        """All programs, in the order of their indices."""
        for index in range(self._programs_count):
            at = self._programs + index * wire.PROGRAM.size
            ops, count, name, _ = self._unpack(wire.PROGRAM, at)
            decoded = tuple(self._op(ops + i * wire.OP.size) for i in range(count))
            yield DecodedProgram(index, self.string(name), decoded)

    def _op(self, offset: int) -> Op:
        fields = self._unpack(wire.OP, offset)
        kind, expect, flags, result, about, nr, _, expected = fields[:8]
        words = fields[8:]
        args = tuple(
            (_member(ArgKind, words[i + 1]), words[i + 2], words[i]) for i in range(0, len(words), 4)
        )
        text, hint = self._object(about)
        expects = _member(ExpectKind, expect)
        return Op(_member(OpKind, kind), expects, OpFlag(flags), result, nr, expected, args, text, hint)

    def _object(self, index: int) -> tuple[str, str]:
        if index == wire.NO_OBJECT:
            return "", ""
        if index >= self._objects_count:
            raise _damaged(f"object {index} is missing")
        at = self._objects + index * wire.OBJECT.size
        text, hint = self._unpack(wire.OBJECT, at)
        return self.string(text), self.string(hint)


def _member(kind: type[_E], value: int) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise _damaged(f"{value} is no {kind.__name__}") from None


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"the image cannot be decoded: {what}", "`restorer verify` tells how much is damaged")


def plan_lines(blob: bytes) -> Iterator[str]:
    """A line for each program and, indented, one for each op. Raises StoreDamaged."""
    decoder = Decoder(blob)
    for program in decoder.programs():
        yield f"program {program.index} '{program.name}', {len(program.ops)} ops:"
        last = ""
        for op in program.ops:
            line = "    " + _word(decoder, op)
            yield f"{line}   # {op.about}" if op.about and op.about != last else line
            last = op.about


def _word(decoder: Decoder, op: Op) -> str:
    strings: tuple[int, ...] = ()
    if op.kind is not OpKind.SYSCALL:
        name, count = _OP_ARGUMENTS[op.kind]
    elif op.flags & OpFlag.NR_FROM_SLOT:
        name, count = f"syscall[{_slot(op.nr)}]", _used(op)
    else:
        name = NAMES.get(op.nr, f"syscall_{op.nr}")
        count, strings = _ARGUMENTS.get(op.nr, (_used(op), ()))
    args = ", ".join(_argument(decoder, arg, i in strings) for i, arg in enumerate(op.args[:count]))
    return f"{name}({args}){_result(op)}"


def _used(op: Op) -> int:
    used = [i + 1 for i, (kind, _, value) in enumerate(op.args) if kind is not ArgKind.IMM or value]
    return used[-1] if used else 0


def _argument(decoder: Decoder, arg: tuple[ArgKind, int, int], string: bool) -> str:
    kind, slot, value = arg
    if kind is ArgKind.SLOT:
        signed = value - (1 << 64) if value >> 63 else value
        return _slot(slot) + (f"{signed:+d}" if signed else "")
    if kind is ArgKind.CTL:
        return f"ctl.{_CTL_NAMES.get(value, f'{value:#x}')}"
    if kind is ArgKind.TREE:
        return f"tree.{_STAGE_NAMES.get(value, f'{value:#x}')}"
    if kind is ArgKind.DATA:
        return f'"{decoder.string(value)[:_STRING_MAX_BYTES]}"' if string else f"image+{value:#x}"
    return _number(value)


def _number(value: int) -> str:
    if value in (_AT_FDCWD, _AT_FDCWD & 0xFFFFFFFF):
        return "AT_FDCWD"
    if value >> 63:
        return str(value - (1 << 64)) if value > (1 << 64) - _SMALL else f"{value:#x}"
    return str(value) if value < 256 else f"{value:#x}"


def _slot(index: int) -> str:
    return f"${_SLOT_NAMES.get(index, index)}"


def _result(op: Op) -> str:
    parts = [f" = {_slot(op.result)}"] if op.result != wire.NO_SLOT else []
    if op.expect is ExpectKind.EXACT:
        parts.append(f" must be {op.expected}")
    elif op.expect is ExpectKind.OK_OR:
        parts.append(f" or {op.expected}")
    elif op.expect is ExpectKind.ANY:
        parts.append(" or any error")
    if op.flags & OpFlag.FILE_CHECK:
        parts.append(" unless --force-files")
    return "".join(parts)
