# SPDX-License-Identifier: Apache-2.0
"""Lays an image out as one blob, the form in which wire.h describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from restorer import wire
from restorer.ops import Area, Ctl, Data, Header, Op, ProcessEntry, Slot
from restorer.wire import ArgKind

__all__ = ["Parts", "ProgramPart", "seal"]

_DATA_ALIGN_BYTES = 64  # of XSAVE areas
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class ProgramPart:
    """One program: its name, the top of its stack (None: the launcher's), its ops."""

    name: Data
    stack: Data | None
    ops: Sequence[Op]


@dataclass(frozen=True)
class Parts:
    """What an image has gathered. `shared`, `main` and `pager` are indices in `programs`."""

    programs: Sequence[ProgramPart]
    objects: Sequence[tuple[Data, Data]]
    ports: Sequence[tuple[Data, int]]
    data: bytearray
    strings: bytearray
    reserved_bytes: int
    slots: int
    fd_base: int
    shared: int
    main: int
    pager: int
    threads: int


@dataclass
class _Layout:
    """Offsets in the blob; `reserve` lies behind its end."""

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

    def at(self, data: Data) -> int:
        """The offset that `data` stands for."""
        return self.bases[data.area] + data.offset


def seal(parts: Parts, header: Header) -> bytes:
    """The blob: header, programs, ops, objects, process, segments, ports, data, strings, manifest."""
    layout = _lay_out(parts, header)
    blob = bytearray(layout.end)
    blob[: wire.HEADER.size] = _pack_header(parts, header, layout)
    _pack_programs(blob, parts, layout)
    for i, (text, hint) in enumerate(parts.objects):
        wire.OBJECT.pack_into(blob, layout.objects + i * wire.OBJECT.size, layout.at(text), layout.at(hint))
    _pack_process(blob, parts, layout, header.process)
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
    layout.segments = layout.processes + wire.PROCESS.size
    layout.ports = layout.segments + len(header.process.segments) * wire.SEGMENT.size
    layout.data = _align(layout.ports + len(parts.ports) * wire.PORT.size, _DATA_ALIGN_BYTES)
    layout.strings = layout.data + len(parts.data)
    layout.manifest = layout.strings + len(parts.strings)
    layout.end = layout.manifest + len(header.manifest)
    layout.reserve = _align(layout.end, wire.PAGE_BYTES)
    layout.bases = {Area.DATA: layout.data, Area.STRINGS: layout.strings, Area.RESERVE: layout.reserve}
    return layout


def _pack_header(parts: Parts, header: Header, layout: _Layout) -> bytes:
    holes = [*header.bases, *((0, 0),) * wire.BASES][: wire.BASES]
    return wire.HEADER.pack(
        wire.MAGIC,
        wire.VERSION,
        wire.HEADER.size,
        header.image_id,
        layout.end,
        layout.reserve + _align(parts.reserved_bytes, wire.PAGE_BYTES),
        *(start for start, _ in holes),
        *(length for _, length in holes),
        header.xfeatures,
        header.xstate_bytes,
        parts.fd_base,
        *(layout.programs, len(parts.programs)),
        *(layout.objects, len(parts.objects)),
        *(layout.processes, 1),
        *(layout.ports, len(parts.ports)),
        parts.shared,
        parts.slots,
        *(layout.manifest, len(header.manifest)),
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


def _pack_process(blob: bytearray, parts: Parts, layout: _Layout, process: ProcessEntry) -> None:
    wire.PROCESS.pack_into(
        blob,
        layout.processes,
        process.pid,
        parts.main,
        parts.pager,
        parts.threads,
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


def _encode(layout: _Layout, op: Op) -> list[int]:
    fields: list[int] = [op.kind, op.expect.kind, op.flags, op.result, op.about, op.nr, 0, op.expect.value]
    for arg in op.args:
        if isinstance(arg, Slot):
            fields += (arg.offset & _MASK64, ArgKind.SLOT, arg.index, 0)
        elif isinstance(arg, Data):
            fields += (layout.at(arg), ArgKind.DATA, 0, 0)
        elif isinstance(arg, Ctl):
            fields += (arg.offset, ArgKind.CTL, 0, 0)
        else:
            fields += (arg & _MASK64, ArgKind.IMM, 0, 0)
    return fields + [0] * 4 * (wire.ARGS - len(op.args))


def _align(n: int, to: int) -> int:
    return -(-n // to) * to
