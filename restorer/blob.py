# SPDX-License-Identifier: Apache-2.0
"""Lays an image out as one blob, the form in which wire.h describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from struct import Struct

from restorer import wire
from restorer.ops import Area, Ctl, Data, Header, Op, ProcessEntry, Slot, Tree
from restorer.record import dataclass
from restorer.wire import ArgKind

__all__ = ["Parts", "ProcessPart", "ProgramPart", "seal"]

_DATA_ALIGN_BYTES = 64  # of XSAVE areas
_PID = Struct("<i")
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class ProgramPart:
    """One program: its name, the top of its stack (None: the launcher's), its ops."""

    name: Data
    stack: Data | None
    ops: Sequence[Op]


@dataclass(frozen=True)
class ProcessPart:
    """What Image knows of one process: indices of programs, how many threads, the slot of its channel."""

    main: int
    pager: int
    threads: int
    channel: int


@dataclass(frozen=True)
class Parts:
    """What an image has gathered. `shared` and `undo` are indices in `programs`."""

    programs: Sequence[ProgramPart]
    objects: Sequence[tuple[Data, Data]]
    ports: Sequence[tuple[Data, int]]
    data: bytearray
    strings: bytearray
    reserved_bytes: int
    slots: int
    fd_base: int
    shared: int
    undo: int
    processes: Sequence[ProcessPart]


@dataclass
class _Layout:
    """Offsets in the blob; `reserve` lies behind its end."""

    ops: int = 0
    programs: int = 0
    objects: int = 0
    processes: int = 0
    segments: int = 0
    pids: int = 0
    ports: int = 0
    data: int = 0
    strings: int = 0
    manifest: int = 0
    end: int = 0
    reserve: int = 0
    bases: dict[Area, int] = field(default_factory=dict)

    def at(self, data: Data) -> int:
        """The offset that `data` stands for."""
        return self.bases[data.area] + data.offset


def seal(parts: Parts, header: Header) -> bytes:
    """The blob: header, programs, ops, objects, processes, segments, pids, ports, data, strings, manifest."""
    layout = _lay_out(parts, header)
    blob = bytearray(layout.end)
    blob[: wire.HEADER.size] = _pack_header(parts, header, layout)
    _pack_programs(blob, parts, layout)
    for i, (text, hint) in enumerate(parts.objects):
        wire.OBJECT.pack_into(blob, layout.objects + i * wire.OBJECT.size, layout.at(text), layout.at(hint))
    _pack_processes(blob, parts, layout, header.processes)
    for i, pid in enumerate(header.pids):
        _PID.pack_into(blob, layout.pids + i * _PID.size, pid)
    for i, (value, protocol) in enumerate(parts.ports):
        wire.PORT.pack_into(blob, layout.ports + i * wire.PORT.size, layout.at(value), protocol)
    blob[layout.data : layout.data + len(parts.data)] = parts.data
    blob[layout.strings : layout.strings + len(parts.strings)] = parts.strings
    blob[layout.manifest : layout.end] = header.manifest
    return bytes(blob)


def _lay_out(parts: Parts, header: Header) -> _Layout:
    layout = _Layout(programs=wire.HEADER.size)
    layout.ops = _align(layout.programs + len(parts.programs) * wire.PROGRAM.size, 8)
    layout.objects = layout.ops + sum(len(program.ops) for program in parts.programs) * wire.OP.size
    layout.processes = _align(layout.objects + len(parts.objects) * wire.OBJECT.size, 8)
    layout.segments = layout.processes + len(header.processes) * wire.PROCESS.size
    segments = sum(len(process.segments) for process in header.processes)
    layout.pids = layout.segments + segments * wire.SEGMENT.size
    layout.ports = _align(layout.pids + len(header.pids) * _PID.size, 8)
    layout.data = _align(layout.ports + len(parts.ports) * wire.PORT.size, _DATA_ALIGN_BYTES)
    layout.strings = layout.data + len(parts.data)
    layout.manifest = layout.strings + len(parts.strings)
    layout.end = layout.manifest + len(header.manifest)
    layout.reserve = _align(layout.end, wire.PAGE_BYTES)
    layout.bases = {Area.DATA: layout.data, Area.STRINGS: layout.strings, Area.RESERVE: layout.reserve}
    return layout


def _pack_header(parts: Parts, header: Header, layout: _Layout) -> bytes:
    return wire.HEADER.pack(
        wire.MAGIC,
        wire.VERSION,
        wire.HEADER.size,
        header.image_id,
        layout.end,
        layout.reserve + _align(parts.reserved_bytes, wire.PAGE_BYTES),
        header.xfeatures,
        header.xstate_bytes,
        parts.fd_base,
        *(layout.programs, len(parts.programs)),
        *(layout.objects, len(parts.objects)),
        *(layout.processes, len(header.processes)),
        *(layout.ports, len(parts.ports)),
        parts.shared,
        parts.undo,
        parts.slots,
        *(layout.manifest, len(header.manifest)),
        *(layout.pids, len(header.pids)),
        0 if header.terminal is None else layout.at(header.terminal),
        *header.clocks,
        header.leaders,
    )


def _pack_programs(blob: bytearray, parts: Parts, layout: _Layout) -> None:
    at = layout.ops
    for i, program in enumerate(parts.programs):
        stack = 0 if program.stack is None else layout.at(program.stack)
        record = (at, len(program.ops), layout.at(program.name), stack)
        wire.PROGRAM.pack_into(blob, layout.programs + i * wire.PROGRAM.size, *record)
        for op in program.ops:
            wire.OP.pack_into(blob, at, *_encode(layout, op))
            at += wire.OP.size


def _pack_processes(
    blob: bytearray, parts: Parts, layout: _Layout, processes: Sequence[ProcessEntry]
) -> None:
    segments = layout.segments
    for i, (part, process) in enumerate(zip(parts.processes, processes, strict=True)):
        holes = [*process.bases, *((0, 0),) * wire.BASES][: wire.BASES]
        wire.PROCESS.pack_into(
            blob,
            layout.processes + i * wire.PROCESS.size,
            *(process.pid, part.main, part.pager, part.threads),
            *(process.map_id, process.records_count, process.map_check),
            *(process.vdso_syscall, process.flags),
            *(len(process.segments), segments, part.channel),
            *(start for start, _ in holes),
            *(length for _, length in holes),
        )
        for segment in process.segments:
            wire.SEGMENT.pack_into(
                *(blob, segments, segment.start, segment.end, segment.image or segment.start),
                *(segment.flags, segment.prot),
            )
            segments += wire.SEGMENT.size


def _encode(layout: _Layout, op: Op) -> list[int]:
    fields: list[int] = [op.kind, op.expect.kind, op.flags, op.result, op.about, op.nr, 0, op.expect.value]
    for arg in op.args:
        if isinstance(arg, Slot):
            fields += (arg.offset & _MASK64, ArgKind.SLOT, arg.index, 0)
        elif isinstance(arg, Data):
            fields += (layout.at(arg), ArgKind.DATA, 0, 0)
        elif isinstance(arg, Ctl):
            fields += (arg.offset, ArgKind.CTL, 0, 0)
        elif isinstance(arg, Tree):
            fields += (arg.offset, ArgKind.TREE, 0, 0)
        else:
            fields += (arg & _MASK64, ArgKind.IMM, 0, 0)
    return fields + [0] * 4 * (wire.ARGS - len(op.args))


def _align(n: int, to: int) -> int:
    return -(-n // to) * to
